from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from checks import StandIn, image, needs, poses

from posefix.exceptions import InputError
from posefix.keypoints.skeleton import COCO


def labels() -> Any:
    """Three frames of two tracks, nodes in another order than the skeleton's."""
    sleap = needs("sleap_io")
    data = poses(6).reshape(3, 2, 17, 3)
    data[0, 0, 2] = np.nan
    names = list(reversed(COCO.keypoints))
    return sleap.Labels.from_numpy(
        data, videos=[sleap.Video("a.mp4")], skeletons=[sleap.Skeleton(names)], return_confidence=True
    )


def arrays(output: Any) -> Any:
    return output.numpy(return_confidence=True)


def test_round_trip_of_labels(identity: StandIn) -> None:
    output, untouched = labels(), labels()
    result = identity([image()] * 3, output)
    np.testing.assert_array_equal(arrays(result), arrays(untouched))
    np.testing.assert_array_equal(arrays(output), arrays(untouched))
    assert type(result) is type(output)
    assert result is not output
    assert [len(k) for k in identity.keypoints] == [2, 2, 2]


def test_pixels_of_labels(shift: StandIn) -> None:
    output = labels()
    before = arrays(output)
    after = arrays(shift([image()] * 3, output))
    there = np.isfinite(before[..., 0])
    np.testing.assert_allclose(after[there][:, :2], before[there][:, :2] + 1, rtol=1e-6)  # an array of float32
    np.testing.assert_array_equal(after[there][:, 2], 0.75)
    assert np.isnan(after[0, 0, 2, 0])
    np.testing.assert_array_equal(arrays(output), before)
    np.testing.assert_allclose(shift.keypoints[1][0, 0], before[1, 0, 16])  # the nose is the last node


def test_filled_labels(fill: StandIn) -> None:
    filled = arrays(fill({0: image(), 1: image(), 2: image()}, labels()))
    assert filled[0, 0, 2].tolist() == [12, 34, 0.5]


def test_own_instances_stay(shift: StandIn) -> None:
    sleap, output = needs("sleap_io"), labels()
    own = sleap.Instance.from_numpy(poses(1)[0, :, :2], skeleton=output.skeletons[0])
    output[0].instances.append(own)
    result = shift([image()] * 3, output)
    np.testing.assert_array_equal(result[0].instances[-1].numpy(), own.numpy())


def test_labels_bring_their_video(tmp_path: Path, identity: StandIn) -> None:
    sleap, output = needs("sleap_io"), labels()
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, file in enumerate(files):
        cv2.imwrite(file, np.full((48, 64, 3), 50 * i + 50, np.uint8))
    video = sleap.Video.from_filename(files)
    output = sleap.Labels.from_numpy(arrays(output), videos=[video], skeletons=output.skeletons, return_confidence=True)
    identity(None, output)
    assert [int(image[0, 0, 0]) for image in identity.images] == [50, 100, 150]


@pytest.mark.parametrize("source", ["dataframe", "analysis csv"])
def test_tables(source: str, tmp_path: Path, identity: StandIn, shift: StandIn) -> None:
    pandas, output = needs("pandas"), labels()
    if source == "dataframe":
        table = output.to_dataframe(format="instances")
    else:
        needs("sleap_io.io.csv").write_labels(output, str(tmp_path / "a.csv"), format="sleap")
        table = pandas.read_csv(tmp_path / "a.csv")
    untouched = table.copy()
    pandas.testing.assert_frame_equal(identity([image()] * 3, table), untouched, check_exact=True)
    pandas.testing.assert_frame_equal(table, untouched, check_exact=True)
    moved = shift({0: image(), 1: image(), 2: image()}, table)
    there = table["left_ear.x"].notna()
    np.testing.assert_allclose(moved["left_ear.x"][there], table["left_ear.x"][there] + 1)
    assert (moved["left_ear.score"][there] == 0.75).all()
    assert table["right_knee.x"].isna().sum() == 1
    np.testing.assert_array_equal(moved["right_knee.x"].isna(), table["right_knee.x"].isna())
    pandas.testing.assert_frame_equal(table, untouched, check_exact=True)


def test_tables_of_two_videos(identity: StandIn) -> None:
    """Frames of the same number are frames of two videos, and an image by number could be either's."""
    pandas = needs("pandas")
    rows = [{"video": v, "frame_idx": 0} | {f"{k}.{a}": 5.0 for k in COCO.keypoints for a in "xy"} for v in ("a", "b")]
    table = pandas.DataFrame(rows)
    identity([image(), image()], table)
    assert [len(k) for k in identity.keypoints] == [1, 1]
    with pytest.raises(InputError, match="several videos"):
        identity({0: image()}, table)
