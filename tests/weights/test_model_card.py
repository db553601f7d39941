"""The model card says what is on record, in the hub's format, whatever is on record."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from factories import make_weights
from posefix.inference.refiner import Refiner
from posefix.weights.model_card import CARD_NAME, MARKER, licence, model_card

ABOUT = {
    "title": "Small one",
    "licence": "Apache-2.0",
    "results": {
        "HRNet": {"AP before": 0.75812345, "AP after": 0.761},
        "MoveNet | fast": {"AP before": 0.5, "AP after": 0.55, "note": "two\nlines"},
    },
    "data": ["COCO train2017", {"name": "LSP"}],
    "limits": "One person\nat a time.",
    "citation": "@inproceedings{…}",
    "commit": "abc",
    "recipe": {"steps": 100, "sets": ({"annotations": "a.json"},), "path": Path("x")},
}


def card(**about: Any) -> str:
    return model_card(replace(make_weights(), about=about), "ann/poses")


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    data = yaml.safe_load(head)
    assert isinstance(data, dict)
    return data


def test_everything_on_record_has_its_place() -> None:
    text = card(**ABOUT)
    assert front_matter(text) == {
        "license": "apache-2.0",
        "library_name": "posefix",
        "pipeline_tag": "keypoint-detection",
        "tags": ["posefix", "pose-estimation", "pose-refinement", "human-pose", "keypoints", "coco"],
    }
    lines = text.splitlines()
    for line in (
        MARKER,
        "# Small one",
        'refiner = Refiner.from_pretrained("ann/poses")',
        "| Network | mobilenet_v2, pose enters as correction |",
        "| Input | 256 × 192 (height × width) |",
        "| Keypoints | 17 (coco) |",
        "|  | AP before | AP after | note |",
        "| HRNet | 0.7581 | 0.761 |  |",
        "| MoveNet \\| fast | 0.5 | 0.55 | two lines |",
        "- COCO train2017",
        '- {"name": "LSP"}',
        "Apache-2.0.",
        "@inproceedings{…}",
        "| commit | abc |",
        "steps: 100",
    ):
        assert line in lines, line
    assert "nose, left_eye, right_eye" in text
    assert text.endswith("```\n")


def test_nothing_is_invented() -> None:
    text = card()
    assert front_matter(text)["license"] == "unknown"
    assert "No results are on record." in text
    assert "No data are on record." in text
    assert "## Limits" not in text
    assert "## Recipe" not in text
    assert "# posefix mobilenet_v2 256x192, coco" in text


def test_unusual_licences_are_named() -> None:
    assert licence(replace(make_weights(), about={"license": "MIT"})) == "MIT"
    head = front_matter(card(license="Ours: no\nmilitary use"))
    assert head["license"] == "other"
    assert head["license_name"] == "Ours: no military use"


@pytest.mark.parametrize("results", [[{"a": 1}, {"b": 2}], {"AP": 0.5}, "good", ["x", 1], {"a": {"b": {"c": [1]}}}])
def test_results_of_any_shape(results: Any) -> None:
    text = card(results=results)
    assert "No results" not in text
    assert front_matter(text)["library_name"] == "posefix"


def test_own_readme_stays(tmp_path: Path) -> None:
    refiner = Refiner(replace(make_weights(), about={"title": "First"}), device="cpu")
    refiner.save_pretrained(tmp_path)
    assert "# First" in (tmp_path / CARD_NAME).read_text()
    Refiner(replace(make_weights(), about={"title": "Second"}), device="cpu").save_pretrained(tmp_path)
    assert "# Second" in (tmp_path / CARD_NAME).read_text()
    (tmp_path / CARD_NAME).write_text("mine")
    refiner.save_pretrained(tmp_path)
    assert (tmp_path / CARD_NAME).read_text() == "mine"


NASTY = "\x1b[2J<script>x</script> `rm` ![x](http://h/x.png) \u202e https://u:secret@h/ hf_abcdefghijklmnopqrstuv"


@pytest.mark.parametrize("key", ["title", "description", "licence", "results", "data", "limits", "citation", "else"])
def test_what_is_on_record_stays_text(key: str) -> None:
    for value in (NASTY, [NASTY], {NASTY: NASTY}, [{NASTY: NASTY}], {NASTY: {"a": [NASTY]}}):
        text = card(**{key: value})
        assert not [c for c in text if not (c.isprintable() or c == "\n")]
        body = text.partition(MARKER)[2]
        own = card().partition(MARKER)[2]
        assert body.count("<") == own.count("<")
        assert len(re.findall(r"(?<!\\)`", body)) == len(re.findall(r"(?<!\\)`", own))
        assert "![" not in body
        assert "secret" not in text
        assert "hf_abc" not in text


def test_a_recipe_does_not_end_its_block() -> None:
    text = card(recipe={"a": "x\n```\n<b>", "b": "y\n````\n"})
    fence = re.findall(r"^(`{3,})yaml$", text, re.M)[0]
    assert len(fence) == 5
    assert text.rstrip().endswith("\n" + fence)


def test_names_of_keypoints_stay_text() -> None:
    made = make_weights()
    names = ("<b>`a`", *made.skeleton.keypoints[1:])
    skeleton = replace(made.skeleton, keypoints=names, edges=(), unannotated=())
    assert "in order: &lt;b&gt;\\`a\\`, left_eye" in model_card(replace(made, skeleton=skeleton))
