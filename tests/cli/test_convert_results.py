"""``posefix convert-results``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from factories import annotation_file, results_of
from posefix.cli.main import main
from posefix.io.parquet_files import about_parquet

pytest.importorskip("pyarrow", reason="Parquet files need the extra posefix[parquet]")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["convert-results", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def fault(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["convert-results", *arguments])
    assert result.exit_code == 1, result.output
    return result.output


def test_there_and_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = annotation_file(rng)
    entries = results_of(data, rng)
    source, table, back = (str(tmp_path / n) for n in ("in.json", "people.parquet", "out.json"))
    Path(source).write_text(json.dumps(entries))
    assert "12 people" in run(source, "--out", table)
    assert about_parquet(table)["skeleton"] == "coco"
    assert len(about_parquet(table)["keypoints"]) == 17
    run(table, "--out", back)
    assert json.loads(Path(back).read_text()) == entries
    (tmp_path / "val.json").write_text(json.dumps(data))
    run(source, "--out", table, "--annotations", str(tmp_path / "val.json"))
    run(table, "--out", back)
    assert json.loads(Path(back).read_text())[0]["file_name"] == "001.jpg"


def test_mistakes(tmp_path: Path) -> None:
    source, table = str(tmp_path / "in.json"), str(tmp_path / "people.parquet")
    Path(source).write_text(json.dumps([{"image_id": 1, "keypoints": [1.0, 2.0, 0.5] * 17}]))
    assert "ends in .parquet or .json" in fault(source, "--out", str(tmp_path / "x.csv"))
    assert "one JSON and one Parquet file" in fault(source, "--out", str(tmp_path / "x.json"))
    assert "--refined is for the way to JSON" in fault(source, "--out", table, "--refined")
    assert "'crowdpose' 14" in fault(source, "--out", table, "--skeleton", "crowdpose")
    run(source, "--out", table)
    assert "way to Parquet" in fault(table, "--out", source, "--skeleton", "coco")
    assert "not refined yet" in fault(table, "--out", str(tmp_path / "o.json"), "--refined")
    assert "no such file" in fault(str(tmp_path / "none.json"), "--out", table)
