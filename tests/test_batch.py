"""Rows in, rows out: the same bits however the rows are split, errors in the rows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from factories import annotation_file, make_weights, results_of
from posefix.batch import BatchRefiner, BatchSettings, image_of_rows, settings_from
from posefix.exceptions import FileFormatError, InputError
from posefix.inference.refiner import Refiner

pa = pytest.importorskip("pyarrow", reason="tables need the extra posefix[parquet]")

from posefix.io.parquet import entries_to_table, people_schema, table_to_entries  # noqa: E402


@pytest.fixture(scope="module")
def refiner() -> Refiner:
    return Refiner(make_weights(input_hw=(64, 64)), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, two of which are damaged."""
    found = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(1, 13):
        texture = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        cv2.imwrite(str(found / f"{index:03d}.jpg"), texture)
    (found / "003.jpg").write_bytes((found / "003.jpg").read_bytes()[:500])
    (found / "009.jpg").write_bytes(b"no image")
    return found


def people(count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    data = annotation_file(rng, images=count, people=4)
    entries = results_of(data, rng)
    for entry in entries:
        entry["file_name"] = f"{entry['image_id']:03d}.jpg"
    entries[5]["keypoints"] = [1.0, 2.0]
    entries[6]["keypoints"] = [0.0] * 51
    entries[7]["score"] = None
    entries[8]["keypoints"][3:6] = [0, 0, 0]
    # A repeated person, for soft NMS.
    entries[10] = {**entries[9], "score": entries[9]["score"] / 2}
    return entries


def settings_for(folder: Path, **changes: Any) -> BatchSettings:
    return replace(BatchSettings(images=str(folder), device="cpu", batch_size=8, prior_weight=1.2), **changes)


def table_of(entries: list[dict[str, Any]]) -> Any:
    return entries_to_table(entries, people_schema(17))


def same_rows(left: Any, right: Any) -> bool:
    """Bit for bit, NaN equal to itself."""
    return bool(left.combine_chunks().equals(right.combine_chunks()))


@pytest.mark.parametrize("partitions", [2, 7])
def test_partitions_give_the_same_bits(refiner: Refiner, folder: Path, partitions: int) -> None:
    worker = BatchRefiner(settings_for(folder), refiner=refiner)
    table = table_of(people())
    whole = worker(table)
    images = np.array(image_of_rows(table)[1])
    parts = np.random.default_rng(partitions).integers(0, partitions, 12)[images]
    pieces = [worker(table.filter(pa.array(parts == p))) for p in range(partitions)]
    again = pa.concat_tables(pieces).sort_by("row")
    assert same_rows(again, whole)
    assert whole.drop(["refined_keypoints", "refined_score", "status", "error"]).equals(
        table.drop(["refined_keypoints", "refined_score", "status", "error"])
    )


def test_errors_are_in_the_rows(refiner: Refiner, folder: Path) -> None:
    refined = BatchRefiner(settings_for(folder), refiner=refiner)(table_of(people()))
    status = np.array(refined["status"].to_pylist())
    error = refined["error"].to_pylist()
    assert set(status[8:12]) == {"unread"}
    assert "003.jpg" in error[8]
    assert "cut short" in error[8]
    assert status[5] == "no_pose"
    assert status[6] == "no_box"
    assert (status == "refined").sum() == 48 - 8 - 2
    changed = refined["refined_keypoints"].is_valid().to_numpy(zero_copy_only=False)
    assert (changed == (status == "refined")).all()
    assert refined["refined_score"][7].as_py() is None  # no score to weigh


def test_rows_that_are_odd(refiner: Refiner, folder: Path) -> None:
    refine = BatchRefiner(settings_for(folder), refiner=refiner)
    with pytest.raises(InputError, match="expected a list of dicts, got 5 as row 0"):
        refine([5])
    [after] = refine([{"image_id": 2**70, "keypoints": [10**400] * 51, "bbox": [10**400] * 4}])
    assert after["status"] == "no_pose"


def test_soft_nms_lowers_the_repeated_person(refiner: Refiner, folder: Path) -> None:
    entries = people()[12:16]
    entries[1] = {**entries[0], "score": entries[0]["score"] / 2}
    scores = {}
    for soft_nms in (True, False):
        worker = BatchRefiner(settings_for(folder, soft_nms=soft_nms), refiner=refiner)
        scores[soft_nms] = worker(table_of(entries))["refined_score"].to_pylist()
    assert scores[True][0] == scores[False][0]
    assert scores[True][1] < 0.01 * scores[False][1]


def test_every_kind_of_batch(refiner: Refiner, folder: Path) -> None:
    worker = BatchRefiner(settings_for(folder), refiner=refiner)
    entries = [e for e in people() if len(e["keypoints"]) == 51]
    table = table_of(entries)
    expected = table_to_entries(worker(table))
    rows = worker(entries)
    assert [r.get("refined_keypoints") for r in rows] == [e.get("refined_keypoints") for e in expected]
    assert [r["status"] for r in rows] == [e["status"] for e in expected]
    (batch,) = table.combine_chunks().to_batches()
    refined = pa.Table.from_batches([worker(batch)])
    assert refined.schema.field("refined_keypoints").type == pa.list_(pa.float64())  # what Spark takes
    assert refined.to_pylist() == worker(table).to_pylist()
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    frame = worker(table.to_pandas())
    assert isinstance(frame, pd.DataFrame)
    assert frame["status"].tolist() == [e["status"] for e in expected]
    with pytest.raises(InputError, match="expected a pyarrow Table"):
        worker("rows")


def test_rows_may_bring_their_images(refiner: Refiner, folder: Path) -> None:
    entries = people()[:4]
    rows = [{**e, "image": (folder / e["file_name"]).read_bytes()} for e in entries]
    own = BatchRefiner(settings_for(folder, images=None), refiner=refiner)(rows)
    read = BatchRefiner(settings_for(folder), refiner=refiner)(entries)
    assert [r["refined_keypoints"] for r in own] == [r["refined_keypoints"] for r in read]
    assert [r["image"] for r in own] == [r["image"] for r in rows]
    without = BatchRefiner(settings_for(folder, images=None), refiner=refiner)(entries)
    assert {r["status"] for r in without} == {"unread"}


def test_a_stream_keeps_images_together(refiner: Refiner, folder: Path) -> None:
    worker = BatchRefiner(settings_for(folder), refiner=refiner)
    table = table_of(people())
    whole = worker(table)
    for size in (1, 5, 100):
        batches = [table.slice(start, size) for start in range(0, table.num_rows, size)]
        assert same_rows(pa.concat_tables(list(worker.refine_stream(batches))), whole)
    assert list(worker.refine_stream([table.slice(0, 0)])) == []


def test_any_fault_of_one_image_stays_with_it(refiner: Refiner, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = BatchRefiner(settings_for(folder), refiner=refiner)
    prepare = Refiner.prepare

    def sometimes(self: Refiner, image: Any, *arguments: Any, **options: Any) -> Any:
        if image[0, 0, 0] % 3 == 0:
            raise ZeroDivisionError("by chance")
        return prepare(self, image, *arguments, **options)

    monkeypatch.setattr(Refiner, "prepare", sometimes)
    refined = worker(table_of(people()))
    failed = np.array(refined["status"].to_pylist()) == "failed"
    assert failed.any()
    assert not failed.all()
    assert {e for e, f in zip(refined["error"].to_pylist(), failed, strict=True) if f} == {
        "ZeroDivisionError: by chance"
    }
    monkeypatch.setattr(Refiner, "prepare", lambda *a, **k: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        worker(table_of(people()))


def test_names_of_images() -> None:
    table = pa.table({"file_name": ["b.jpg", None, None, "a.jpg", "000000000007.jpg"], "image_id": [1, 7, 8, 2, 3]})
    names, place = image_of_rows(table)
    assert names == ["b.jpg", "000000000007.jpg", "000000000008.jpg", "a.jpg"]
    assert place.tolist() == [0, 1, 2, 3, 1]
    assert image_of_rows(pa.table({"image_id": ["x", "y", "x"]}))[0] == ["x.jpg", "y.jpg"]
    with pytest.raises(FileFormatError, match="row 1"):
        image_of_rows(pa.table({"file_name": ["a", None], "image_id": pa.array([1, None], pa.int64())}))
    with pytest.raises(FileFormatError, match="file_name or image_id"):
        image_of_rows(pa.table({"x": [1]}))


def test_settings_travel_as_json(folder: Path) -> None:
    settings = settings_for(folder, skeleton="coco", flip_test=True)
    assert settings_from(json.loads(json.dumps(asdict(settings)))) == settings
    with pytest.raises(InputError, match="unknown setting 'speed'"):
        settings_from({"speed": 1})
    with pytest.raises(InputError, match="ranking"):
        BatchSettings(ranking="best")
    with pytest.raises(InputError, match="skeleton"):
        BatchSettings(skeleton="horse")
    with pytest.raises(InputError, match="batch_size"):
        BatchSettings(batch_size=0)


def test_turned_images_follow_the_setting(refiner: Refiner, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "001.png", exif=exif)
    Image.fromarray(np.rot90(np.asarray(image), -1)).save(tmp_path / "002.png")
    rows = [{**people()[0], "file_name": f"{n:03d}.png"} for n in (1, 2)]
    refined = {
        mode: BatchRefiner(settings_for(tmp_path, exif=mode), refiner=refiner)(rows)
        for mode in ("auto", "apply", "ignore")
    }
    keypoints = {mode: [row["refined_keypoints"] for row in new] for mode, new in refined.items()}
    assert keypoints["apply"][0] == keypoints["apply"][1] == keypoints["ignore"][1]
    assert keypoints["auto"] == keypoints["ignore"]
    assert keypoints["ignore"][0] != keypoints["ignore"][1]
    assert [row["status"] for row in refined["auto"]] == ["refined"] * 2
    assert "EXIF orientation 6 ignored" in refined["auto"][0]["error"]
    for size, like, doubt in (((480, 640), "apply", "recorded size says"), ((640, 480), "ignore", None)):
        recorded = [{**row, "image_width": size[0], "image_height": size[1]} for row in rows[:1]]
        (new,) = BatchRefiner(settings_for(tmp_path), refiner=refiner)(recorded)
        assert new["refined_keypoints"] == keypoints[like][0]
        assert doubt is None if new.get("error") is None else doubt in new["error"]
    half = [{**rows[1], "image_width": 1280, "image_height": 960}]
    assert "recorded as 1280 × 960" in BatchRefiner(settings_for(tmp_path), refiner=refiner)(half)[0]["error"]
    assert [row.get("error") for row in (refined["auto"][1], *refined["apply"], *refined["ignore"])] == [None] * 5
    with pytest.raises(InputError, match="exif: expected one of"):
        settings_for(tmp_path, exif="up")
