"""Images from folders, tar shards and object stores."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from posefix.exceptions import ImageError, InputError
from posefix.io.image_store import ImageStore
from posefix.io.images import load_image


@pytest.fixture
def images(tmp_path: Path) -> dict[str, bytes]:
    """Six PNG files, also in two tar shards."""
    rng = np.random.default_rng(0)
    files = {}
    for index in range(6):
        code = cv2.imencode(".png", rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))[1]
        files[f"sub/{index}.png"] = code.tobytes()
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / "folder" / name).write_bytes(content)
    for shard in (0, 1):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for name in list(files)[shard::2]:
                info = tarfile.TarInfo(f"./{name}" if shard else name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
    return files


def test_every_place_gives_the_same_images(tmp_path: Path, images: dict[str, bytes]) -> None:
    stores = [ImageStore(str(tmp_path / "folder")), ImageStore(str(tmp_path / "train-*.tar"))]
    stores.append(pickle.loads(pickle.dumps(stores[1])))
    for name, content in images.items():
        for store in stores:
            assert np.array_equal(load_image(store.source(name)), load_image(content))


def test_a_name_may_lead_through_a_shard(tmp_path: Path, images: dict[str, bytes]) -> None:
    store = ImageStore(str(tmp_path))
    assert store.source("train-0.tar/sub/2.png") == images["sub/2.png"]
    with pytest.raises(ImageError, match="no such member"):
        store.source("train-0.tar/sub/1.png")
    with pytest.raises(ImageError, match=r"train-9\.tar.*no such file"):
        store.source("train-9.tar/sub/1.png")


def test_what_is_missing_is_told(tmp_path: Path, images: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ImageStore(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no tar file"):
        ImageStore(str(tmp_path / "none-*.tar"))
    with pytest.raises(ImageError, match="not in"):
        ImageStore(str(tmp_path / "train-0.tar")).source("sub/1.png")
    with pytest.raises(ImageError, match="brings no bytes"):
        ImageStore(None).source("a.png")
    with pytest.raises(ImageError, match="no such file"):
        load_image(ImageStore(str(tmp_path / "folder")).source("none.png"))
    (tmp_path / "bad.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(ImageError, match="cannot be read"):
        ImageStore(str(tmp_path / "bad.tar")).source("a.png")


def test_a_local_uri_is_a_folder(tmp_path: Path, images: dict[str, bytes]) -> None:
    pytest.importorskip("pyarrow", reason="object stores need the extra posefix[parquet]")
    store = ImageStore((tmp_path / "folder").as_uri())
    assert store.source("sub/0.png") == images["sub/0.png"]
    with pytest.raises(ImageError, match="no such file"):
        store.source("sub/9.png")
    shards = ImageStore((tmp_path / "train-*.tar").as_uri().replace("%2A", "*"))
    assert shards.source("sub/1.png") == images["sub/1.png"]
