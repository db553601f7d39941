"""A run whose people, images and parts all lie in an object store: a real server on this machine, no mock."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from large_runs import command, contents, write_input
from posefix.batch import BatchRefiner, BatchSettings
from posefix.cli.main import main
from posefix.exceptions import ImageError
from posefix.io.image_store import ImageStore
from posefix.io.parquet_files import json_to_parquet
from posefix.io.storage import Storage, child, filesystem

server = pytest.importorskip("moto.server", reason="needs moto's S3 server; make test-ray runs these")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """name → URI of a place in a bucket of a server on this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    found = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    host, port = found.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    filesystem(f"s3://posefix?{query}")[0].create_dir("posefix")
    yield lambda name: f"s3://posefix/{name}?{query}"
    filesystem.cache_clear()
    found.stop()


def upload(where: str, files: dict[str, bytes]) -> None:
    storage = Storage(where)
    for name, content in files.items():
        storage.write(name, content)


def test_everything_in_a_bucket(tmp_path: Path, bucket: Any) -> None:
    write_input(tmp_path)
    json_to_parquet(tmp_path / "results.json", tmp_path / "people.parquet", count=17)
    local = command(tmp_path, tmp_path / "run", "--part-size", "15", results="people.parquet")
    main.main(local, standalone_mode=False)
    upload(bucket("images"), contents(tmp_path / "images"))
    upload(bucket(""), {"people.parquet": (tmp_path / "people.parquet").read_bytes()})
    remote = [*local]
    remote[1] = bucket("people.parquet")
    remote[remote.index(str(tmp_path / "images"))] = bucket("images")
    remote[remote.index(str(tmp_path / "run"))] = bucket("run")
    main.main([*remote, "--shard", "2/2"], standalone_mode=False)
    main.main([*remote, "--resume"], standalone_mode=False)
    expected = contents(tmp_path / "run")
    there = Storage(bucket("run"))
    assert there.names() == set(expected)
    for name, content in expected.items():
        if name.endswith(".json"):
            assert there.read(name) == content
    for where, name in ((str(tmp_path / "run"), "a.json"), (bucket("run"), "b.json")):
        main.main(["merge-results", where, "--out", str(tmp_path / name)], standalone_mode=False)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert len(json.loads((tmp_path / "a.json").read_text())) == 72


def test_shards_and_missing_images(tmp_path: Path, bucket: Any) -> None:
    write_input(tmp_path)
    files = contents(tmp_path / "images")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writer.addfile(info, io.BytesIO(content))
    upload(bucket("shards"), {"train-0.tar": tar.getvalue()})
    through = ImageStore(bucket("shards"))
    assert through.source("train-0.tar/002.jpg") == files["002.jpg"]
    assert ImageStore(child(bucket("shards"), "train-*.tar")).source("002.jpg") == files["002.jpg"]
    with pytest.raises(ImageError, match="no such file"):
        through.source("none.jpg")
    with pytest.raises(ImageError, match="no such member"):
        through.source("train-0.tar/none.jpg")


def test_a_bucket_that_cannot_be_reached_is_told_in_the_rows(tmp_path: Path, bucket: Any) -> None:
    write_input(tmp_path)
    nowhere = "s3://posefix/images?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    settings = BatchSettings(images=nowhere, weights=str(tmp_path / "weights"), device="cpu", batch_size=8)
    rows = json.loads((tmp_path / "results.json").read_text())[:1]
    refined = BatchRefiner(settings)(rows)
    assert refined[0]["status"] == "unread"
    assert "cannot be read" in refined[0]["error"]
    assert not np.isnan(refined[0]["keypoints"]).any()
