"""On a real Spark of this machine, with ``mapInPandas`` as docs/scale.md shows it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from large_runs import write_input
from posefix.batch import BatchRefiner, BatchSettings
from posefix.io.parquet_files import PeopleFiles, json_to_parquet

sql = pytest.importorskip("pyspark.sql", reason="needs Spark and Java; make test-ray runs this")
pytest.importorskip("pyspark.sql.types")
pytest.importorskip("pandas")
if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
    pytest.skip("Spark needs Java", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    root = Path(__file__).resolve().parent
    paths = [str(root.parent / "src"), *sys.path, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in paths if p))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.shuffle.partitions", "3").config("spark.driver.bindAddress", "127.0.0.1")
    session = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "7").getOrCreate()  # cuts through images
    yield session
    session.stop()


@pytest.mark.parametrize("way", ["mapInPandas", "mapInArrow"])
def test_partitions_of_a_data_frame(spark: Any, tmp_path: Path, way: str) -> None:
    entries = [e for e in write_input(tmp_path) if len(e["keypoints"]) == 51]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    json_to_parquet(tmp_path / "results.json", tmp_path / "people.parquet")
    settings = BatchSettings(
        images=str(tmp_path / "images"), weights=str(tmp_path / "weights"), device="cpu", batch_size=8, prior_weight=1.1
    )
    columns = ["row", "file_name", "image_id", "keypoints", "score"]
    people = spark.read.parquet(str(tmp_path / "people.parquet")).select(*columns)
    types = sql.types
    schema = people.schema.add("refined_keypoints", types.ArrayType(types.DoubleType())).add("refined_score", "double")
    schema = schema.add("status", "string").add("error", "string")

    def refine(frames: Iterator[Any]) -> Iterator[Any]:
        yield from BatchRefiner(settings).refine_stream(frames)

    parted = people.repartition("file_name").sortWithinPartitions("file_name")
    found = getattr(parted, way)(refine, schema).orderBy("row").collect()
    table = next(PeopleFiles(str(tmp_path / "people.parquet")).tables(columns))
    expected = BatchRefiner(settings)(table).to_pylist()
    assert [r.row for r in found] == list(range(len(entries)))
    assert [r.status for r in found] == [e["status"] for e in expected]
    assert [r.error for r in found] == [e["error"] for e in expected]
    assert [r.refined_keypoints for r in found] == [e["refined_keypoints"] for e in expected]
    assert [r.refined_score for r in found] == [e["refined_score"] for e in expected]
