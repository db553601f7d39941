"""The public names, and that importing the package does nothing but define them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import posefix

ROOT = Path(__file__).resolve().parent.parent
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")

#: Runs in a fresh interpreter: torch and cv2 come first, because what they do to the process is theirs.
_PROBE = """
import json, logging, os, random, signal, sys, threading, warnings
import cv2, huggingface_hub, numpy, torch
from pycocotools import coco, cocoeval

def state():
    return {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "matmul": torch.get_float32_matmul_precision(),
        "cuda": torch.cuda.is_initialized(),
        "seed": torch.initial_seed(),
        "torch random": torch.get_rng_state().tolist(),
        "random": str(random.getstate()),
        "numpy random": str(numpy.random.get_state()),
        "numpy errors": numpy.geterr(),
        "numpy print": str(numpy.get_printoptions()),
        "opencv threads": cv2.getNumThreads(),
        "handlers": [str(h) for h in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "filters": [str(f) for f in warnings.filters],
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "running": threading.active_count(),
        "folder": os.getcwd(),
        "path": sys.path,
    }

events = []
def watch(event, arguments):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.system", "os.mkdir", "os.rename", "os.remove"):
        events.append([event, str(arguments)])
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        events.append([event, str(arguments)])

before = state()
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import posefix
seen = list(events)
after = state()
changed = {k: [str(before[k])[:200], str(after[k])[:200]] for k in before if before[k] != after[k]}
json.dump({"changed": changed, "events": seen, "names": [n for n in dir(posefix) if not n.startswith("_")]}, sys.stderr)
"""


def test_all_is_sorted_and_there() -> None:
    def kind(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), not name[0].isupper(), name  # as ruff sorts: constants, classes, the rest

    assert posefix.__all__ == sorted(posefix.__all__, key=kind)
    assert len(set(posefix.__all__)) == len(posefix.__all__)
    for name in posefix.__all__:
        assert getattr(posefix, name) is not None
    names: dict[str, object] = {}
    exec("from posefix import *", names)
    assert set(posefix.__all__) <= set(names)


@pytest.mark.parametrize("name", posefix.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert re.search(rf"posefix\.{re.escape(name)}\b", API), f"docs/api.md does not speak of posefix.{name}"
    value = getattr(posefix, name)
    if isinstance(value, type) or callable(value):
        assert f"::: posefix.{name}\n" in API
        assert value.__doc__


def test_what_is_documented_is_there() -> None:
    import importlib

    for dotted in re.findall(r"^::: (\S+)", API, re.M):
        module, _, name = dotted.rpartition(".")
        if dotted == "posefix.exceptions":
            continue
        assert getattr(importlib.import_module(module), name).__doc__, dotted


def test_names_come_from_where_type_checkers_see_them() -> None:
    """The imports for type checkers and the table for run time say the same."""
    (block,) = [n for n in ast.parse(Path(posefix.__file__).read_text(encoding="utf-8")).body if isinstance(n, ast.If)]
    told = {n.module: tuple(a.name for a in n.names) for n in block.body if isinstance(n, ast.ImportFrom)}
    assert told == {f"posefix.{module}": names for module, names in posefix._MODULES.items()}
    assert {name for names in told.values() for name in names} | {"__version__"} == set(posefix.__all__)


def test_parts_of_the_package_need_no_import_of_their_own() -> None:
    assert posefix.geometry.__name__ == "posefix.geometry"
    with pytest.raises(AttributeError, match="module 'posefix' has no attribute 'geometri'"):
        posefix.geometri  # noqa: B018


def test_exceptions_are_value_errors() -> None:
    for name in posefix.__all__:
        value = getattr(posefix, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, posefix.PosefixError)
            assert issubclass(value, ValueError)


def test_import_has_no_effect(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT")}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env={**kept, "HOME": str(home)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    found = json.loads(done.stderr)  # anything else on standard error would not be JSON
    assert found["changed"] == {}
    assert found["events"] == []
    assert set(posefix.__all__) - {"__version__"} <= set(found["names"])
    assert [p for p in tmp_path.rglob("*") if p != home] == []
