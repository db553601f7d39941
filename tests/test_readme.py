"""What README and docs show is true: snippets run, command lines parse, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
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

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Where a placeholder stands, the rest of a line cannot be parsed, only its options looked up.
_PLACEHOLDER = re.compile(r"…|\.\.\.|\[|\||<")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


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


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
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
    assert len(codes) >= 2
    for code in codes:
        exec(compile(code, page, "exec"), names)
    assert names["refined"].shape == (2, 17, 3)
    assert np.isfinite(names["refined"]).all()


@pytest.mark.parametrize(("line", "whole"), command_lines())
def test_command_lines_use_what_exists(line: str, whole: bool) -> None:
    words = shlex.split(line)[1:] if whole else line.split()[1:]
    command: click.Command = main
    context = click.Context(main, info_name="posefix")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        names = words.pop(0).split("|")  # ``weights list|download`` names several
        for name in names:
            assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[names[0]]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    for option in re.findall(r"(?<!\S)\[?(--?[a-z][a-z-]*)", " ".join(words)):
        assert option in known, f"{command.name} has no option {option}"
    if whole and words and "--help" not in words:
        command.make_context(command.name, words, parent=context)  # parses and checks, runs nothing


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_somewhere(page: Path, target: str) -> None:
    assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


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
