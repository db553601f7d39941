from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import StandIn, assert_same, image, poses

from posefix.adapters.base import Extracted
from posefix.adapters.registry import adapt
from posefix.exceptions import InputError, SkeletonError
from posefix.keypoints.skeleton import COCO, Skeleton


def variants() -> dict[str, Any]:
    data = poses()
    missing = data.copy()
    missing[0, 3] = (np.nan, np.nan, 0.5)
    missing[0, 4] = (0.0, 0.0, 0.0)
    missing[1, 5, 2] = np.nan
    found: dict[str, Any] = {f"numpy {d}": missing.astype(d) for d in ("float16", "float32", "float64")}
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        found[f"torch {kind}"] = torch.tensor(missing).to(kind)
    return found | {
        "two columns": missing[..., :2].astype(np.float32),
        "no people": np.zeros((0, 17, 3), np.float32),
        "nothing": np.zeros((0,), np.float32),
        "lists": data.tolist(),
        "requires grad": torch.tensor(data, requires_grad=True).detach(),
        "frames": [missing.astype(np.float32), data[:1].astype(np.float32), np.zeros((0, 17, 3), np.float32)],
        "wholebody": poses(2, 133).astype(np.float32),
        "halpe": torch.tensor(poses(1, 26)),
    }


@pytest.mark.parametrize("name", sorted(variants()))
def test_round_trip(name: str, identity: StandIn) -> None:
    output, untouched = variants()[name], variants()[name]
    given = [image()] * len(output) if name == "frames" else image()
    result = identity(given, output)
    assert_same(result, untouched)
    assert_same(output, untouched)
    assert result is not output


@pytest.mark.parametrize("name", sorted(variants()))
def test_new_arrays_share_no_memory(name: str, shift: StandIn) -> None:
    output, untouched = variants()[name], variants()[name]
    shift([image()] * len(output) if name == "frames" else image(), output)
    assert_same(output, untouched)


def test_what_is_there_moves(shift: StandIn) -> None:
    data = poses().astype(np.float32)
    data[0, 3] = (np.nan, np.nan, 0.5)
    result = shift(image(), data)
    np.testing.assert_allclose(result[1, :, :2], data[1, :, :2] + 1, rtol=1e-6)
    np.testing.assert_array_equal(result[1, :, 2], 0.75)
    assert np.isnan(result[0, 3, 0])
    assert result[0, 3, 2] == 0.5


def test_missing_is_filled(fill: StandIn) -> None:
    data = poses()[..., :2].astype(np.float32)
    data[0, 3] = 0
    assert fill(image(), data)[0, 3].tolist() == [12, 34]


def test_integers_become_floats(shift: StandIn) -> None:
    data = np.arange(2 * 17 * 2).reshape(2, 17, 2) + 1
    result = shift(image(), data)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, data + 1)


def test_only_the_skeletons_keypoints_move(shift: StandIn) -> None:
    data = poses(1, 133)
    result = shift(image(), data)
    np.testing.assert_allclose(result[0, :17, :2], data[0, :17, :2] + 1)
    np.testing.assert_array_equal(result[0, 17:], data[0, 17:])


def test_frames_tracks_nodes(shift: StandIn) -> None:
    """The shape of SLEAP's ``labels.numpy()``."""
    data = poses(6).reshape(3, 2, 17, 3)
    result = shift([image()] * 3, data)
    np.testing.assert_allclose(result[..., :2], data[..., :2] + 1)
    assert len(shift.images) == 3
    with pytest.raises(InputError, match="expected 3, one per element"):
        shift(image(), data)


def test_images(shift: StandIn) -> None:
    with pytest.raises(InputError, match="brings no image"):
        shift(None, poses())
    with pytest.raises(InputError, match="expected 2, one per element of the output, got 3"):
        shift([image()] * 3, [poses(), poses()])
    with pytest.raises(InputError, match="no ids"):
        shift({1: image()}, poses())
    frames = (image() for _ in range(2))
    assert len(shift(frames, [poses(), poses()])) == 2
    shift(np.stack([image(), image()]), [poses(), poses()])
    bgr = image()
    stand_in = StandIn()
    stand_in(bgr, poses(), color="bgr")
    np.testing.assert_array_equal(stand_in.images[0], bgr[..., ::-1])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((17, 3)), r"for one person pass keypoints\[None\]"),
        (np.zeros((1, 17, 4)), "expected"),
        ("results.json", "got str"),
        ({"pose": 1}, "a dict with 'pose'"),
        ([[[1, 2, 3], [1, 2]]], "different numbers"),
        (None, "got NoneType"),
    ],
)
def test_refused(output: Any, message: str, identity: StandIn) -> None:
    with pytest.raises(InputError, match=message):
        identity(image(), output)


def test_other_keypoint_sets(identity: StandIn) -> None:
    with pytest.raises(SkeletonError, match="got 21"):
        identity(image(), poses(1, 21))
    hand = Skeleton("hand", ("thumb", "finger"), (0.1, 0.1))
    with pytest.raises(SkeletonError, match="named as in skeleton 'hand'"):
        StandIn(skeleton=hand)(image(), poses())


def test_own_adapter(shift: StandIn) -> None:
    from posefix.adapters.base import Extracted

    def extract(output: Any, images: Any, skeleton: Any) -> Extracted:
        return Extracted([output["pose"]], lambda refined: {"pose": refined[0]})

    result = shift(image(), {"pose": poses()}, adapter=extract)
    np.testing.assert_allclose(result["pose"][..., :2], poses()[..., :2] + 1)


def test_empty_lists(identity: StandIn) -> None:
    assert identity(image(), []) == []
    assert identity([image()] * 2, [[], []]) == [[], []]
    assert_same(identity([image()] * 2, [[], poses()]), [[], poses()])


@pytest.mark.parametrize(
    "shape", [(2, 0, 3), (5, 17, 0), (2, 0), (1, 0, 17, 0), (3, 2, 0, 3), (1, 468, 3), (2, 478, 2)]
)
def test_people_without_keypoints_and_faces_are_no_poses(shape: tuple[int, ...], identity: StandIn) -> None:
    """Only no rows mean no people; landmarks of a face are not read as a body's."""
    for output in (np.zeros(shape, np.float32), torch.zeros(shape)):
        with pytest.raises(InputError, match=r"expected|keypoints"):
            identity(image(), output)


def test_images_by_an_id_that_several_have(identity: StandIn) -> None:
    """As two videos have in one table: the last one would have been taken for both."""

    def extract(output: Any, images: Any, skeleton: Skeleton) -> Extracted:
        return Extracted([poses(1), poses(1)], lambda refined: refined, ids=[0, 0])

    with pytest.raises(InputError, match="id 0 is that of several images"):
        adapt(None, COCO, {0: image()}, extract)
    assert len(adapt(None, COCO, [image(), image()], extract).keypoints) == 2
