"""The floors of the house: a file imports only from floors below its own, and no circle exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "posefix"

#: File or package → floor; a file's own entry precedes its package's. Siblings on one floor of a package may
#: import each other, without circles.
FLOORS = {
    "exceptions": -1,  # the cellar: even the skeleton on floor 0 raises them
    "skeleton": 0,
    "geometry": 1,
    "similarity": 1,
    "heatmaps": 1,
    "images": 1,
    "devices": 1,
    "jsonfile": 1,
    "poses": 1,
    "mapping": 2,
    "ranking": 2,
    "trust": 2,
    "synthesis": 2,
    "network": 2,
    "coco": 2,
    "crops": 2,
    "bootstrap": 2,
    "adapters": 2,  # arrays in, arrays out: below the refiner, which calls them
    "inference": 2.5,  # a mezzanine over network and crops
    "refiner": 3,
    "evaluation": 3,
    "matching": 3,
    "diagnosis": 4,
    "diagnosis_report": 5,
    "diagnosis_pictures": 5,
    "before_after": 5,
    "calibration": 5,
    "demo": 5,
    "rates": 5,
    "training": 3,
    "datasets": 4,
    "batch": 4,
    "formats": 4,
    "drawing": 4,
    "convert": 4,
    "training.finish": 5,  # a run's last step, over refiner, batch and evaluation
    "__init__": 5,
    "commands": 6,
    "cli": 7,
    "__main__": 8,
}


def modules() -> dict[str, Path]:
    """Dotted name below ``posefix`` → file; a package's own name stands for its ``__init__``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of this package that a file imports, at the top or inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" and name != "__init__" else name.rpartition(".")[0]
    seen: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["posefix", *filter(None, package.split("."))]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            # ``from package import x`` may name a module or something inside the package.
            seen |= {f"{base}.{alias.name}" for alias in node.names}
    ours = {s.removeprefix("posefix.") if s != "posefix" else "__init__" for s in seen if s.split(".")[0] == "posefix"}
    return {s if s in known else s.rpartition(".")[0] or "__init__" for s in ours} - {name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def entry(module: str) -> str:
    """The key of ``FLOORS`` that holds for a module."""
    key = module if module in FLOORS else module.split(".")[0]
    assert key in FLOORS, f"{module} has no floor: add it to FLOORS and to docs/architecture.md"
    return key


def test_the_walk_sees_imports() -> None:
    found = graph()
    assert "heatmaps" in found["network.refinement"]
    assert "network.resnet" in found["network.refinement"]
    assert found["exceptions"] == set()


def test_every_import_resolves_to_a_file() -> None:
    known = modules()
    for name, targets in graph().items():
        assert targets <= set(known), f"{name} imports {sorted(targets - set(known))}, which are not there"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_downwards(name: str) -> None:
    own = entry(name)
    for target in graph()[name]:
        other = entry(target)
        if other != own:
            assert FLOORS[other] < FLOORS[own], f"{name} (floor {FLOORS[own]}) imports {target} ({FLOORS[other]})"


def test_there_is_no_circle() -> None:
    found, done = graph(), set[str]()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(found.get(name, ())):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(found):
        visit(name, ())


def test_files_stay_readable() -> None:
    for name, path in modules().items():
        count = len(path.read_text(encoding="utf-8").splitlines())
        assert count <= 400, f"{name} has {count} lines; the limit is 400"
