"""Runs in parts: the same files whoever makes them, and the same people as without parts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from large_runs import command, contents, write_input
from posefix.cli import refine_parts
from posefix.cli.main import main

pa = pytest.importorskip("pyarrow", reason="runs in parts need the extra posefix[parquet]")

from posefix.io.parquet_files import PeopleFiles, about_parquet, json_to_parquet, table_bytes  # noqa: E402
from posefix.shards.merge import _own_digits, merge_parts  # noqa: E402
from posefix.shards.plan import Plan, part_name, plan_parts, shard_parts  # noqa: E402
from posefix.shards.run import _sample  # noqa: E402

SIZE = ("--part-size", "15")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 1, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("input")
    write_input(found)
    run(*command(found, found / "plain.json"))
    run(*command(found, found / "whole", *SIZE, "--resume"))
    return found


def plain(folder: Path) -> Any:
    return json.loads((folder / "plain.json").read_text())


def test_parts_give_what_one_file_gives(folder: Path, tmp_path: Path) -> None:
    assert merge_parts(str(folder / "whole"), str(tmp_path / "merged.json")) == 72
    assert json.loads((tmp_path / "merged.json").read_text()) == plain(folder)
    run(*command(folder, tmp_path / "single.json", "--resume", "--part-size", "1000"))
    assert json.loads((tmp_path / "single.json").read_text()) == plain(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged.json", "single.json"]


@pytest.mark.parametrize("count", [2, 7])
def test_shards_write_the_same_bytes(folder: Path, tmp_path: Path, count: int) -> None:
    for index in np.random.default_rng(count).permutation(count).tolist():
        run(*command(folder, tmp_path / "run", *SIZE, "--shard", f"{index + 1}/{count}"))
    assert contents(tmp_path / "run") == contents(folder / "whole")


def test_a_part_knows_what_made_it(folder: Path) -> None:
    about = about_parquet(folder / "whole" / part_name(0))
    assert about["keypoints"][0] == "nose"
    assert len(about["weights"]) == 64
    assert about["settings"]["batch_size"] == 8
    assert about["reliability"]["prior_weight"] > 0


def test_resume_refines_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    run(*command(folder, tmp_path / "run", *SIZE, "--shard", "1/2"))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    (tmp_path / "run" / f".{part_name(1)}.abcd1234.part").write_bytes(b"half a part")
    output = run(*command(folder, tmp_path / "run", *SIZE, "--resume"))
    assert contents(tmp_path / "run") == contents(folder / "whole")
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    assert {name: after[name] for name in before} == before
    assert "59 of 72 people refined" in output  # four images are damaged, one entry is no pose
    assert "12 people of images that could not be read" in output


def test_what_does_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    again = command(folder, folder / "whole", *SIZE)
    assert "--resume continues" in refused(*again, "--shard", "1/2")
    assert "flip_test was False and is True" in refused(*again, "--resume", "--flip-test")
    assert "part_size was 15 and is 16" in refused(*command(folder, folder / "whole", "--resume", "--part-size", "16"))
    assert "expected I/N" in refused(*command(folder, tmp_path / "x", "--shard", "3/2"))
    assert "expected a folder" in refused(*command(folder, tmp_path / "x.json", "--shard", "1/2"))
    assert "--draw" in refused(*command(folder, tmp_path / "x", "--resume", "--draw", str(tmp_path / "d")))
    assert list(tmp_path.iterdir()) == []


def test_another_input_is_refused(folder: Path, tmp_path: Path) -> None:
    entries = json.loads((folder / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(entries))
    other = command(folder, tmp_path / "run", *SIZE, "--resume")
    other[1] = str(tmp_path / "results.json")
    run(*other)
    (tmp_path / "results.json").write_text(json.dumps(entries[3:]))
    assert "people was 72 and is 69" in refused(*other)


def test_a_merge_is_complete_or_refused(folder: Path, tmp_path: Path) -> None:
    files = contents(folder / "whole")
    out = tmp_path / "merged.json"

    def write(changed: dict[str, bytes]) -> str:
        for old in tmp_path.iterdir():
            old.unlink()
        for name, content in changed.items():
            (tmp_path / name).write_bytes(content)
        return refused("merge-results", str(tmp_path), "--out", str(out))

    lost = {k: v for k, v in files.items() if k != part_name(2)}
    assert "1 of 5 parts are missing (2)" in write(lost)
    assert "people are missing or doubled" in write(files | {part_name(2): files[part_name(1)]})
    part = PeopleFiles(str(folder / "whole" / part_name(2)))
    shorter = table_bytes(part.take(np.arange(len(part) - 1)))
    assert "people are missing or doubled" in write(files | {part_name(2): shorter})
    last = PeopleFiles(str(folder / "whole" / part_name(4)))
    assert "the parts hold 71" in write(files | {part_name(4): table_bytes(last.take(np.arange(len(last) - 1)))})
    assert "damaged or not a Parquet file" in write(files | {part_name(2): files[part_name(2)][:-100]})
    assert "there is no run.json" in write({})
    assert not out.exists()


def test_people_of_an_image_who_stand_apart(folder: Path, tmp_path: Path) -> None:
    entries = json.loads((folder / "results.json").read_text())
    order = np.random.default_rng(0).permutation(len(entries)).tolist()
    (tmp_path / "results.json").write_text(json.dumps([entries[i] for i in order]))
    shuffled = command(folder, tmp_path / "run", *SIZE, "--resume")
    shuffled[1] = str(tmp_path / "results.json")
    assert "do not stand together" in run(*shuffled)
    merge_parts(str(tmp_path / "run"), str(tmp_path / "merged.json"))
    whole = [*shuffled]
    whole[whole.index(str(tmp_path / "run"))] = str(tmp_path / "plain.json")
    run(*[a for a in whole if a not in ("--resume", *SIZE)])
    assert json.loads((tmp_path / "merged.json").read_text()) == json.loads((tmp_path / "plain.json").read_text())


def test_images_in_tar_shards_and_parquet_in_and_out(folder: Path, tmp_path: Path) -> None:
    import tarfile

    for shard in (0, 1):
        with tarfile.open(tmp_path / f"images-{shard}.tar", "w") as tar:
            for path in sorted((folder / "images").iterdir())[shard::2]:
                tar.add(path, path.name)
    json_to_parquet(folder / "results.json", tmp_path / "results.parquet", count=17)
    arguments = command(folder, tmp_path / "refined.parquet", "--part-size", "15")
    arguments[1] = str(tmp_path / "results.parquet")
    arguments[arguments.index(str(folder / "images"))] = str(tmp_path / "images-*.tar")
    run(*arguments)
    run("convert-results", str(tmp_path / "refined.parquet"), "--refined", "--out", str(tmp_path / "refined.json"))
    assert json.loads((tmp_path / "refined.json").read_text()) == plain(folder)


def test_plan_keeps_images_and_videos_together(tmp_path: Path) -> None:
    rows = [{"image_id": i // 3, "file_name": f"{i // 3}.jpg"} for i in range(30)]
    rows += [{"image_id": 100 + i, "file_name": f"v/{i}.jpg", "source": f"v{i // 20}", "frame": i} for i in range(40)]
    (tmp_path / "r.json").write_text(json.dumps([r | {"keypoints": [1.0] * 6} for r in rows]))
    json_to_parquet(tmp_path / "r.json", tmp_path / "r.parquet")
    plan = plan_parts(PeopleFiles(str(tmp_path / "r.parquet")), 7)
    assert sorted(np.concatenate([plan.rows(p) for p in range(plan.parts)]).tolist()) == list(range(70))
    part_of_row = plan.part_of_image[plan.image_of_row]
    for start, stop in ((30, 50), (50, 70), *((3 * i, 3 * i + 3) for i in range(10))):
        assert len(set(part_of_row[start:stop].tolist())) == 1
    assert plan.parts == 6
    assert plan.scattered == 0


@pytest.mark.parametrize("parts", [0, 1, 5, 40])
def test_shards_share_the_parts(parts: int) -> None:
    for count in (1, 3, 7, 60):
        assert [p for i in range(count) for p in shard_parts(parts, (i + 1, count))] == list(range(parts))


def test_a_sample_of_crowded_images_is_bounded() -> None:
    """Its people are all in memory at once."""

    class Files:
        def take(self, rows: Any) -> Any:
            return rows

    def sample(people: int, per_image: int) -> Any:
        image_of_row = np.arange(people) // per_image
        images = image_of_row[-1] + 1
        plan = Plan(image_of_row, np.zeros(images, np.int64), "", 0)
        rows = _sample(Files(), plan)  # type: ignore[arg-type]
        assert (np.bincount(image_of_row[rows], minlength=images) % per_image == 0).all()
        return image_of_row[rows]

    assert len(sample(20_000, 4)) == 4096
    crowded = sample(100_000, 50)
    assert 8000 <= len(crowded) <= 8192
    assert len(sample(100_000, 50_000)) == 50_000
    # The same images first as if all had been taken.
    np.testing.assert_array_equal(crowded[::50], sample(8_000, 4)[::4][: len(crowded) // 50])


def test_nobody(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    empty = command(folder, tmp_path / "out.json", "--resume")
    empty[1] = str(tmp_path / "results.json")
    assert "0 people" in run(*empty)
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_keypoints_that_are_not_there_stay_as_they_are_written() -> None:
    own = [5, None, 0.5, math.nan, 3, 0.5, 1, 2, 1, 4, 4, 0]
    new = [5.0, 0.0, 0.5, 0.0, 3.0, 0.5, 1.5, 2.0, 1.0, 4.0, 4.0, 0.7]
    assert repr(_own_digits(own, new)) == repr([*own[:6], 1.5, 2.0, 1.0, 4, 4, 0.7])


def test_a_large_json_file_goes_in_parts_unasked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = json.loads((folder / "results.json").read_text())
    entries[0]["keypoints"][:3] = [7, 9.123456, 0]  # missing, with more digits than are written
    entries[1]["keypoints"][:6] = [None, 3, 0.5, float("nan"), 3, 0.5]
    entries[2]["keypoints"][:2] = [300, 200]
    entries[3] = {"score": 1, "keypoints": entries[3].pop("keypoints"), "note": {"b": 1, "a": 2}, **entries[3]}
    entries[7]["score"], entries[8]["score"] = -1, None
    (tmp_path / "results.json").write_text(json.dumps(entries))
    for name in ("images", "weights"):
        (tmp_path / name).symlink_to(folder / name)
    run(*command(tmp_path, tmp_path / "whole.json"))
    monkeypatch.setattr(refine_parts, "LARGE", 1)
    said = run(*command(tmp_path, tmp_path / "parts.json", *SIZE))
    assert "parts.json written: 72 people" in said
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(tmp_path.glob("*.parts"))
    with monkeypatch.context() as without:
        without.setattr(refine_parts.importlib.util, "find_spec", lambda name: None)
        run(*command(tmp_path, tmp_path / "whole2.json"))
    assert (tmp_path / "whole2.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_recorded_sizes_decide_in_parts_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which way up an image is read, where it has an EXIF orientation."""
    shutil.copytree(folder / "images", tmp_path / "images")
    for name in ("results.json", "weights"):
        (tmp_path / name).symlink_to(folder / name)
    with Image.open(tmp_path / "images" / "001.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "images" / "001.jpg", exif=exif)
    sizes = [(480, 640)] + [(640, 480)] * 23
    images = [
        {"id": i, "file_name": f"{i:03d}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes, start=1)
    ]
    (tmp_path / "val.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    named = ("--annotations", str(tmp_path / "val.json"))
    run(*command(tmp_path, tmp_path / "whole.json"), *named)
    run(*command(tmp_path, tmp_path / "stored.json", "--exif", "ignore"), *named)
    monkeypatch.setattr(refine_parts, "LARGE", 1)
    run(*command(tmp_path, tmp_path / "parts.json", *SIZE), *named)
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert (tmp_path / "parts.json").read_bytes() != (tmp_path / "stored.json").read_bytes()


def test_a_place_without_the_images_is_no_finished_run(folder: Path, tmp_path: Path) -> None:
    """Else every part would be there, unrefined, and --resume would have nothing to do."""
    (tmp_path / "empty").mkdir()
    arguments = command(folder, tmp_path / "run", *SIZE, "--resume")
    arguments[arguments.index("--images") + 1] = str(tmp_path / "empty")
    assert "none of 24 images of a sample can be read; the first: image" in refused(*arguments)
    assert not list((tmp_path / "run").glob("part*"))
    arguments[arguments.index("--images") + 1] = "nowhere://bucket/images"
    assert "nowhere" in refused(*arguments)
    run(*command(folder, tmp_path / "run", *SIZE, "--resume"))
    assert contents(tmp_path / "run") == contents(folder / "whole")


def test_rows_that_are_no_poses_are_no_finished_run(folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    row = {"file_name": "001.jpg", "score": 0.5}
    cases = {"long": [row | {"keypoints": [1.0] * 399}], "null": [row | {"keypoints": None}] * 2, "none": [row]}
    words = {"long": "got 399 numbers", "null": "expected a column of lists", "none": "a column 'keypoints'"}
    for name, rows in cases.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        arguments = command(folder, tmp_path / name, "--resume")
        arguments[1] = str(tmp_path / f"{name}.parquet")
        assert words[name] in refused(*arguments)
        assert not list((tmp_path / name).glob("part*"))
