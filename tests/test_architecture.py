"""The rooms of the library: imports point downwards, there is no circle, no file grows beyond reading."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "posefix"

#: Files and packages under ``posefix``, from the bottom up: each imports only from those before it.
ROOMS = (
    "choices",
    "messages",
    "exceptions",
    "typed",
    "tensors",
    "deprecation",
    "geometry",
    "keypoints",
    "io",
    "network",
    "weights",
    "adapters",
    "drawing",
    "evaluation",
    "video",
    "inference",
    "batch",
    "shards",
    "distributed",
    "pose_errors",
    "html_report",
    "training",
    "__init__",
    "cli",
    "__main__",
)
#: Lines of a file.
MOST_LINES = 500


@cache
def modules() -> dict[str, Path]:
    """Dotted name below ``posefix`` → file; a package's own name stands for its ``__init__``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """Modules of this package that a file imports, at the top or inside functions."""
    known = modules()
    seen: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative import; write posefix.…"
            # ``from package import x`` may name a module or something inside the package.
            seen |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {s.removeprefix("posefix.") if s != "posefix" else "__init__" for s in seen if s.split(".")[0] == "posefix"}
    return {s if s in known else s.rpartition(".")[0] or "__init__" for s in ours} - {name}


@cache
def graph() -> dict[str, set[str]]:
    return {name: imports(name, path) for name, path in modules().items()}


def room(module: str) -> str:
    return module.split(".")[0]


def test_the_walk_sees_imports() -> None:
    found = graph()
    assert "keypoints.heatmaps" in found["network.model"]
    assert "network.resnet" in found["network.model"]
    assert found["messages"] == set()


def test_every_room_is_on_the_map() -> None:
    assert {room(m) for m in modules()} == set(ROOMS)


def test_every_import_resolves_to_a_file() -> None:
    known = set(modules())
    missing = {name: sorted(targets - known) for name, targets in graph().items() if targets - known}
    assert missing == {}


def test_imports_point_downwards() -> None:
    upwards = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in sorted(targets)
        if ROOMS.index(room(target)) > ROOMS.index(room(name))
    ]
    assert upwards == []


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
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}


def test_one_place_decides_what_is_missing() -> None:
    """A new place asks ``posefix.keypoints.poses``: ``present``, ``labelled`` or ``scored``."""
    ways = re.compile(r"(?<!mass\[t\] )!= 0(\.0)?\)\.any\(-1\)|(?<!truth)(?<!near)(?<!marked)\[[^][]*, 2:?\] > 0")
    found = [
        f"{name}: {line.strip()}"
        for name, path in modules().items()
        if name != "keypoints.poses"
        for line in path.read_text(encoding="utf-8").splitlines()
        if ways.search(line)
    ]
    assert found == [], "ask posefix.keypoints.poses.present instead"


def test_files_are_written_whole_or_not_at_all() -> None:
    """A new writer goes through ``posefix.io.atomic``; appending to a log is no such write."""
    ways = {"write_text", "write_bytes", "imwrite", "save_file", "tofile"}
    found = []
    for name, path in modules().items():
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        for call in calls if name != "io.atomic" else []:
            function = call.func
            called = getattr(function, "attr", getattr(function, "id", ""))
            of_os = (
                isinstance(function, ast.Attribute)
                and isinstance(function.value, ast.Name)
                and function.value.id == "os"
            )
            if called in ways or (of_os and called in ("replace", "rename")):
                found.append(f"{name}:{call.lineno} {called}")
    assert found == [], "use posefix.io.atomic.write_file, new_file or write_files"
