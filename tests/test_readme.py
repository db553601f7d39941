"""What README and docs show is true: snippets run, command lines parse, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from factories import make_weights, random_poses
from posefix.cli.main import main
from posefix.inference.refiner import Refiner
from posefix.training.config import read_config
from posefix.training.trainer import build_network

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Where a placeholder stands, the rest of a line cannot be parsed, only its options looked up.
_PLACEHOLDER = re.compile(r"…|\.\.\.|\[|\||<")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block, those in tabs included."""
    text = path.read_text(encoding="utf-8")
    for indent, language, code in re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text, re.M | re.S):
        yield language, re.sub(rf"^{indent}", "", code, flags=re.M)


def python_blocks() -> list[Any]:
    found = [(p, n, code) for p in PAGES for n, (language, code) in enumerate(blocks(p)) if language == "python"]
    return [pytest.param(code, id=f"{name_of(p)}-{n}") for p, n, code in found]


def command_lines() -> list[Any]:
    """Every ``posefix command …`` in a code block or between backticks, and whether it stands in a block, whole."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        lines = [(x, True) for language, code in blocks(path) if language != "python" for x in code.splitlines()]
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        for line, whole in lines + [(span, False) for span in spans]:
            match = re.search(r"(?:^|&& |^\S+=\S* | -m )(posefix [a-z-].*)", line)
            if match:
                words = re.sub(r"\s#.*", "", match[1]).strip()
                whole = whole and not _PLACEHOLDER.search(words)
                found.append(pytest.param(words, whole, id=f"{name_of(path)}-{words}"))
    return found


def links() -> list[Any]:
    found = []
    for path in PAGES:
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
            if not re.match(r"\w+:|#", target):
                found.append(pytest.param(path, target.split("#")[0], id=f"{name_of(path)}-{target}"))
    return found


@pytest.mark.parametrize("code", python_blocks())
def test_snippets_parse_and_import_what_exists(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "posefix":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


#: What snippets import that the main environment does not have; tests/adapters runs scripts with these.
_NEEDS_ESTIMATOR = re.compile(
    r"(import|from) (ultralytics|supervision|mmpose|torchvision|rtmlib|mediapipe)|processor\("
)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/images.md"])
def test_snippets_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refiner = Refiner(make_weights(), device="cpu", precision="float32")
    monkeypatch.setattr(Refiner, "from_pretrained", lambda *_, **__: refiner)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    keypoints = random_poses(np.random.default_rng(0), 2)
    names: dict[str, Any] = {
        "image": image,
        "keypoints": keypoints,
        "output": keypoints,
        "boxes": np.array([[0, 0, 200, 300], [300, 100, 600, 400.0]]),
        "images": [image, image],
        "list_of_keypoints": [keypoints, keypoints[:1]],
    }
    codes = [code for language, code in blocks(ROOT / page) if language == "python"]
    codes = [code for code in codes if not _NEEDS_ESTIMATOR.search(code)]
    assert len(codes) >= 1
    names["refiner"] = refiner
    for code in codes:
        exec(compile(code, page, "exec"), names)
    assert names["refined"].shape == names["keypoints"].shape
    assert np.isfinite(names["refined"]).all()


def configurations() -> list[Any]:
    found = [(p, n, code) for p in PAGES for n, (language, code) in enumerate(blocks(p)) if language == "yaml"]
    return [pytest.param(code, id=f"{name_of(p)}-{n}") for p, n, code in found if "sets:" in code]


@pytest.mark.parametrize("code", configurations())
def test_configurations_can_be_read(code: str, tmp_path: Path) -> None:
    hand = next(c for _, c in blocks(ROOT / "docs" / "own-keypoints.md") if "HAND = " in c)
    names: dict[str, Any] = {}
    exec(compile(hand.split("with open")[0], "own-keypoints.md", "exec"), names)
    assert len(names["HAND"]) == 21
    (tmp_path / "hand.json").write_text(json.dumps(names["HAND"].to_dict()), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(code, encoding="utf-8")
    config = read_config(tmp_path / "run.yaml")
    assert build_network(config).config.num_keypoints == len(config.skeleton)


def test_the_address_is_the_same_everywhere() -> None:
    """Of the repository: pyproject.toml names it, the site links it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    home = re.search(r'^Homepage = "(.*)"', text, re.M)
    assert home is not None
    assert f"link: {home[1]}}}" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", text)) == {home[1]}


@pytest.mark.parametrize(("line", "whole"), command_lines())
def test_command_lines_use_what_exists(line: str, whole: bool) -> None:
    words = shlex.split(line)[1:] if whole else line.split()[1:]
    command: click.Command = main
    context = click.Context(main, info_name="posefix", **main.context_settings)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        names = words.pop(0).split("|")  # ``weights list|download`` names several
        for name in names:
            assert name in command.list_commands(context), f"there is no command {name!r}"
        found = command.get_command(context, names[0])
        assert found is not None
        command = found
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    for option in re.findall(r"(?<!\S)\[?(--?[a-z][a-z-]*)", " ".join(words)):
        assert option in known, f"{command.name} has no option {option}"
    if whole and words and "--help" not in words:
        command.make_context(command.name, words, parent=context)  # parses and checks, runs nothing


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_somewhere(page: Path, target: str) -> None:
    assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


def has_name(dotted: str) -> bool:
    """Whether ``posefix.a.b`` can be reached by importing modules and reading attributes."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        return all((value := getattr(value, name, None)) is not None for name in parts[end:])
    return False


#: What "A new adapter" in docs/adapters.md makes up.
_INVENTED = {"tests/adapters/test_otherpose.py"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_names_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "src|tests|tools|benchmarks|examples|configs|docs"
    files = set(re.findall(rf"\b(?:{folders})/[\w/.-]+\.(?:py|md|yaml|json|ipynb|js|css)\b", text)) - _INVENTED
    assert [f for f in sorted(files) if not (ROOT / f).exists()] == []
    assert [n for n in sorted(set(re.findall(r"`(posefix(?:\.\w+)+)", text))) if not has_name(n)] == []


def test_the_map_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<!/)\b[a-z_]+/[a-z_]+\.(?:py|js|css)", text))
    assert len(named) > 15
    assert [f for f in sorted(named) if not list((ROOT / "src" / "posefix").rglob(f)) and not (ROOT / f).exists()] == []


def test_the_site_holds_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert f": {path.name}\n" in navigation, f"{path.name} is not in mkdocs.yml"


def test_every_example_is_listed_and_explained() -> None:
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert path.name in listed
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text))
        if path.name != "offline.py":
            assert f"python examples/{path.name}" in text
            assert len(text.splitlines()) <= 140, f"{path.name} is no short script any more"


def test_there_is_something_to_test() -> None:
    assert len(python_blocks()) > 10
    assert len(command_lines()) > 20
    assert len(links()) > 20
