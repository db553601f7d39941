"""The words of code and pages are the field's: old private ones stay only as aliases for users."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".md", ".html", ".js", ".css", ".yaml", ".yml", ".ipynb"}
NAMED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "mkdocs.yml")
FILES = [
    *(ROOT / name for name in NAMED),
    *(p for f in ("src", "docs", "tools", "benchmarks", "examples", "configs") for p in sorted((ROOT / f).rglob("*"))),
]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in FILES
    if path.name in NAMED or path.suffix in SUFFIXES
}

#: Old word → the files that keep it: as an old name that still works, or in another sense.
OLD = {
    "pictures?": {"src/posefix/cli/diagnose.py"},
    "trusts?|measure_trust": {
        *(f"src/posefix/{name}.py" for name in ("cli/refine", "inference/options", "inference/refiner")),
        *("src/posefix/weights/calibration.py", "docs/api.md"),  # which hides the old name
        # of files and names, for safety
        *("SECURITY.md", "src/posefix/io/image_names.py"),
    },
    "departures?|usual_departure": {"src/posefix/weights/calibration.py"},
    "agreement": {
        *(f"src/posefix/{name}.py" for name in ("cli/refine", "inference/results")),
        "docs/parity.md",  # with poseval
    },
    "company|mended": {"src/posefix/training/config.py"},
    "limbs?": {"src/posefix/keypoints/skeleton.py", "docs/api.md"},
    "cell_offset": {"src/posefix/network/config.py"},
    "annotated": {"src/posefix/training/data/shards.py"},
    # other people are other instances; these are pixels and numbers next to each other
    "neighbou?rs?": {
        *(f"src/posefix/{name}.py" for name in ("keypoints/heatmaps", "network/image_model", "training/data/shards")),
    },
    "heatmap cells?|cells? of (the|a) heatmap": set(),
    "evidence|beside|(un)?sure|nobody|nobodies|everybody|anybody|somebody": set(),
    "mends?|retouch|befalls?|spoilt|hears?|speaks_plainly": set(),
    "power of the (pose )?prior": set(),
    r"REFERENCE §|\bDESIGN\b|/work/": set(),
}


#: Words that are English in texts and private as names of functions, variables and fields.
OLD_NAMES = {
    *("look", "told", "evidence", "beside", "sure", "usual", "departure", "departures", "agreement", "company"),
    *("retouch", "damage", "cover", "mended", "precise", "drop", "hears", "spoilt", "spoiled", "refine_entries"),
}


def test_no_function_or_variable_has_an_old_name() -> None:
    found = []
    for name, text in TEXTS.items():
        for node in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
            for field in ("id", "arg", "attr", "name"):
                if str(getattr(node, field, "")).strip("_") in OLD_NAMES:
                    found.append(f"{name}:{getattr(node, 'lineno', '?')}: {getattr(node, field)}")
    assert found == []


@pytest.mark.parametrize("words", OLD)
def test_old_words_are_aliases_only(words: str) -> None:
    pattern = re.compile(rf"(?<![\w-])(?:{words})(?!\w)", re.IGNORECASE)
    found = [f"{n}: {m[0]}" for n, text in TEXTS.items() if n not in OLD[words] for m in pattern.finditer(text)]
    assert found == []


def test_every_exception_is_one() -> None:
    """A file that does not use its word any more is not named."""
    for words, allowed in OLD.items():
        for name in allowed:
            assert re.search(rf"\b(?:{words})\b", TEXTS[name], re.IGNORECASE), f"{name} has no {words}"


def test_data_of_the_workplace_is_only_an_option() -> None:
    """``../shared`` is a folder of optional data: benchmarks, tools and their commands may name it, the package not."""
    assert [name for name, text in TEXTS.items() if "../shared" in text and name.startswith("src/")] == []
