"""Docstrings name the arguments and attributes that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "posefix"
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def documented(docstring: str, section: str) -> list[str]:
    found = re.search(rf"^{section}:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    lines = re.findall(r"^    (\S[^:\n]*):(?= |$)", found[1], re.MULTILINE) if found else []
    return [name.strip(" `*") for line in lines for name in line.split(",")]


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    given = function.args
    extra = [a for a in (given.vararg, given.kwarg) if a is not None]
    return {a.arg for a in [*given.posonlyargs, *given.args, *given.kwonlyargs, *extra]}


def names(node: ast.AST) -> set[str]:
    if isinstance(node, Function):
        return arguments(node)
    return {
        name
        for inner in ast.walk(node)
        for name in (
            [inner.target.id]
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
            else [inner.attr]
            if isinstance(inner, ast.Attribute)
            else [inner.name, *(arguments(inner) if inner.name == "__init__" else ())]
            if isinstance(inner, Function)
            else []
        )
    }


@pytest.mark.parametrize("room", sorted(p.name for p in SOURCE.iterdir() if p.suffix == ".py" or p.is_dir()))
def test_documented_names_exist(room: str) -> None:
    unknown = []
    path = SOURCE / room
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (*Function, ast.ClassDef)):
                text = ast.get_docstring(node) or ""
                known = names(node)
                listed = documented(text, "Args") + documented(text, "Attributes")
                unknown += [f"{file.name}:{node.lineno} {node.name}: {n}" for n in listed if n not in known]
    assert unknown == []
