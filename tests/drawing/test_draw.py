"""What is drawn, what is not, and that the image given stays as it was."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from factories import FOUR, random_poses
from posefix.drawing.draw import draw, draw_comparison
from posefix.exceptions import ImageError, InputError, SkeletonError
from posefix.keypoints.skeleton import COCO, Skeleton


@pytest.fixture
def image() -> npt.NDArray[np.uint8]:
    return np.full((480, 640, 3), 250, np.uint8)


@pytest.fixture
def poses() -> npt.NDArray[np.float64]:
    return random_poses(np.random.default_rng(0), 3)


def changed(image: npt.NDArray[np.uint8], drawn: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.asarray((image != drawn).any(-1))


def test_a_new_image(image: npt.NDArray[np.uint8], poses: npt.NDArray[np.float64]) -> None:
    before = (image.copy(), poses.copy())
    image.setflags(write=False)
    poses.setflags(write=False)
    drawn = draw(image, poses)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert changed(image, drawn).any()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(poses, before[1])
    np.testing.assert_array_equal(draw(image, poses[..., :2]), drawn)
    np.testing.assert_array_equal(draw(image, poses.astype(np.float32)), drawn)


def test_every_keypoint_is_marked_in_the_colour_of_its_side(image: npt.NDArray[np.uint8]) -> None:
    pose = np.zeros((1, 4, 3))
    pose[0, :, :2] = [[100, 60], [60, 200], [300, 200], [300, 400]]
    pose[..., 2] = 1
    drawn = draw(image, pose, skeleton=FOUR)
    head, left, right, tail = (tuple(drawn[int(y), int(x)].tolist()) for x, y in pose[0, :, :2])
    assert head == tail
    assert len({head, left, right}) == 3
    mirrored = draw(image, pose[:, FOUR.flip_indices], skeleton=FOUR)
    assert tuple(mirrored[200, 60].tolist()) == right  # the colour goes with the name
    # Not by colour alone: the markers' outlines differ too, once the edges are away.
    bare = type(FOUR)("bare", FOUR.keypoints, FOUR.sigmas)
    shapes = [changed(image, draw(image, pose, skeleton=bare))[y - 6 : y + 7, x - 6 : x + 7].tobytes()
              for x, y in pose[0, :3, :2].astype(int)]  # fmt: skip
    assert len(set(shapes)) == 3


@pytest.mark.parametrize("missing", [(50.0, 50.0, 0.0), (50.0, 50.0, -1.0), (np.nan, 50.0, 1.0), (50.0, 50.0, np.nan)])
def test_missing_keypoints_are_not_drawn(image: npt.NDArray[np.uint8], missing: tuple[float, float, float]) -> None:
    pose = np.tile(np.array(missing), (1, 17, 1))
    np.testing.assert_array_equal(draw(image, pose), image)
    poses = random_poses(np.random.default_rng(1), 1) + np.array([300.0, 200.0, 0.0])
    poses[0, 0] = missing
    assert not changed(image, draw(image, poses))[:100, :100].any()


def test_missing_without_scores(image: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(draw(image, np.zeros((2, 17, 2))), image)
    np.testing.assert_array_equal(draw(image, np.full((2, 17, 2), np.inf)), image)


def test_threshold(image: npt.NDArray[np.uint8], poses: npt.NDArray[np.float64]) -> None:
    poses[..., 2] = 0.4
    np.testing.assert_array_equal(draw(image, poses, threshold=0.4), image)
    np.testing.assert_array_equal(draw(image, poses, threshold=0.39), draw(image, poses))


def test_nothing(image: npt.NDArray[np.uint8]) -> None:
    empty: list[Any] = [np.zeros((0, 17, 3)), np.zeros((0, 17, 2)), []]
    for nothing in empty:
        np.testing.assert_array_equal(draw(image, nothing), image)
        assert draw_comparison(image, nothing, nothing).shape[0] == 480


def test_lines_grow_with_the_person() -> None:
    pose = np.zeros((1, 4, 3))
    pose[0, [0, 3]] = [[100, 10, 1], [100, 90, 1]]
    image = np.full((2000, 1500, 3), 250, np.uint8)
    small = changed(image, draw(image, pose, skeleton=FOUR))
    large = changed(image, draw(image, pose * [10, 10, 1], skeleton=FOUR))
    assert large[500].sum() > small[50].sum() + 4 > 4  # the rim is as wide on both


def test_order_of_people_of_different_size_does_not_matter(image: npt.NDArray[np.uint8]) -> None:
    poses = random_poses(np.random.default_rng(4), 3)
    poses[:, :, :2] = 200 + (poses[:, :, :2] - 200) * np.array([0.3, 0.6, 1.0])[:, None, None]
    np.testing.assert_array_equal(draw(image, poses), draw(image, poses[::-1]))


@pytest.mark.parametrize("far", [-1e4, 1e5, 1e9, 1e300])
def test_far_outside(image: npt.NDArray[np.uint8], poses: npt.NDArray[np.float64], far: float) -> None:
    poses[0, 5, 0] = far
    poses[1, :, 1] = far
    assert draw(image, poses).shape == image.shape


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (40, 60)])
def test_small_images(size: tuple[int, int], poses: npt.NDArray[np.float64]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert draw(image, poses).shape == image.shape
    both = draw_comparison(image, poses, poses + 3)
    assert both.shape[0] == size[0]
    assert both.shape[1] > 2 * size[1]


def test_other_images_are_loaded(image: npt.NDArray[np.uint8], poses: npt.NDArray[np.float64], tmp_path: Any) -> None:
    image[..., 0] = 10
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    expected = draw(image, poses)
    np.testing.assert_array_equal(draw(tmp_path / "a.png", poses), expected)
    np.testing.assert_array_equal(draw(image[..., ::-1], poses, color="bgr"), expected)
    with pytest.raises(ImageError):
        draw(tmp_path / "none.png", poses)


def test_comparison_shows_both_and_marks_what_moved(image: npt.NDArray[np.uint8]) -> None:
    before = random_poses(np.random.default_rng(2), 1) + np.array([0.0, 60.0, 0.0])
    after = before.copy()
    after[0, 9, :2] += 60
    both = draw_comparison(image, before, after, labels=("", ""))
    left, right = both[:, :640], both[:, -640:]
    np.testing.assert_array_equal(left, draw(image, before))
    assert changed(draw(image, after), right).any()
    nudged = before + np.array([0.4, 0.4, 0.0])
    still = draw_comparison(image, before, nudged, labels=("", ""))
    np.testing.assert_array_equal(still[:, -640:], draw(image, nudged))
    labelled = draw_comparison(image, before, after)
    assert changed(both, labelled)[:40, :120].any()
    assert not changed(both, labelled)[60:].any()


@pytest.mark.parametrize(
    ("shape", "error", "words"),
    [
        ((3, 16, 3), SkeletonError, r"expected \(N, 17, 3\) or \(N, 17, 2\) for skeleton 'coco', got \(3, 16, 3\)"),
        ((17, 3), InputError, r"got \(17, 3\)"),
        ((1, 17, 4), InputError, r"got \(1, 17, 4\)"),
    ],
)
def test_shapes_are_checked(
    image: npt.NDArray[np.uint8], shape: tuple[int, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        draw(image, np.ones(shape))
    with pytest.raises(error, match="after: "):
        draw_comparison(image, np.ones((1, 17, 3)), np.ones(shape))


def test_comparison_needs_the_same_people(image: npt.NDArray[np.uint8], poses: npt.NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="expected the 3 people of 'before'"):
        draw_comparison(image, poses, poses[:2])


def test_skeletons_without_limbs(image: npt.NDArray[np.uint8], poses: npt.NDArray[np.float64]) -> None:
    bare = type(COCO)("bare", COCO.keypoints, COCO.sigmas)
    assert 0 < changed(image, draw(image, poses, skeleton=bare)).sum() < changed(image, draw(image, poses)).sum()


def test_filled_keypoints_are_hollow() -> None:
    pose = np.zeros((1, 17, 3))
    pose[0, :, :2] = np.random.default_rng(0).uniform(40, 360, (17, 2))
    pose[..., 2] = 1
    background = np.full((400, 400, 3), 77, np.uint8)
    bare = Skeleton("bare", COCO.keypoints, COCO.sigmas)
    x, y = np.rint(pose[0, 9, :2]).astype(int)
    full, hollow = (draw(background, pose, skeleton=bare, filled=np.arange(17)[None] == k) for k in (0, 9))
    assert (full[y, x] != 77).any()
    assert (hollow[y, x] == 77).all()
    assert (hollow[y - 12 : y + 12, x - 12 : x + 12] != 77).any()
    before = pose.copy()
    before[0, 9] = 0
    right = draw_comparison(background, before, pose, skeleton=bare)[:, -400:]
    assert (right[y, x] == 77).all()
    with pytest.raises(InputError, match="filled"):
        draw(background, pose, filled=[True])
