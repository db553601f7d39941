from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from posefix.geometry import (
    CROP_MARGIN,
    DEGENERATE_SIDE,
    EXTENT_SCALE,
    box_area,
    box_iou,
    boxes_around_points,
    boxes_xywh_to_xyxy,
    boxes_xyxy_to_xywh,
    crop_affine,
    crop_rectangles,
    flip_points,
    invert_affine,
    transform_points,
    warp_crop,
    warp_crops,
)
from posefix.keypoints.skeleton import COCO

INPUT_HW = (256, 192)
Image = npt.NDArray[np.uint8]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def random_boxes(rng: np.random.Generator, count: int, spread: float = 500.0) -> npt.NDArray[np.float64]:
    corner = rng.uniform(-spread, spread, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(5, spread, (count, 2))], -1)


def random_affine(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    rectangles = crop_rectangles(random_boxes(rng, count), INPUT_HW)
    return crop_affine(
        rectangles, INPUT_HW, rotation=rng.uniform(-180, 180, count), mirror=rng.integers(0, 2, count).astype(bool)
    )


def blob(image_hw: tuple[int, int], at: npt.ArrayLike, std: float) -> Image:
    """A soft spot, whose centroid tells where a crop has put it."""
    rows, columns = np.mgrid[: image_hw[0], : image_hw[1]]
    x, y = np.asarray(at, float)
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * std**2))
    return np.repeat(value[..., None].round().astype(np.uint8), 3, 2)


def centroid(crop: Image) -> npt.NDArray[np.float64]:
    weight = crop[..., 0].astype(float)
    rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


# ---------------------------------------------------------------- boxes


def test_box_formats_round_trip(rng: np.random.Generator) -> None:
    boxes = random_boxes(rng, 50)
    np.testing.assert_allclose(boxes_xywh_to_xyxy(boxes_xyxy_to_xywh(boxes)), boxes, atol=1e-9)
    np.testing.assert_allclose(box_area(boxes), boxes_xyxy_to_xywh(boxes)[:, 2:].prod(-1))


def test_area_of_boxes_turned_inside_out_is_zero() -> None:
    assert (box_area(np.array([[5.0, 5, 4, 9], [5, 5, 4, 4], [5, 5, 5, 9]])) == 0).all()


def test_iou_laws(rng: np.random.Generator) -> None:
    first, second = random_boxes(rng, 20), random_boxes(rng, 30)
    iou = box_iou(first, second)
    assert iou.shape == (20, 30)
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_allclose(box_iou(second, first), iou.T)
    np.testing.assert_allclose(np.diag(box_iou(first, first)), 1.0)
    np.testing.assert_allclose(box_iou(first * 3 + 7, second * 3 + 7), iou)
    empty = np.zeros((1, 4))
    assert box_iou(empty, empty) == 0
    assert box_iou(np.array([[0.0, 0, 2, 1]]), np.array([[1.0, 0, 3, 1]])) == pytest.approx(1 / 3)
    assert box_iou(np.zeros((0, 4)), second).shape == (0, 30)


def test_boxes_around_points_hold_the_valid_points(rng: np.random.Generator) -> None:
    points = rng.normal(size=(40, 17, 2)) * 100
    valid = rng.random((40, 17)) < 0.5
    valid[:, 0] = True
    valid[:, 1] = True
    boxes = boxes_around_points(points, valid)
    for box, pose, mask in zip(boxes, points, valid, strict=True):
        low, high = pose[mask].min(0), pose[mask].max(0)
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, (low + high) / 2, atol=1e-9)
        np.testing.assert_allclose(box[2:] - box[:2], (high - low) * EXTENT_SCALE)


def test_points_that_are_not_valid_do_not_count(rng: np.random.Generator) -> None:
    points, valid = rng.normal(size=(3, 17, 2)), np.ones((3, 17), bool)
    valid[:, 4] = False
    clean = boxes_around_points(points, valid)
    for rubbish in (np.nan, np.inf, -1e9, 0.0):
        points[:, 4] = rubbish
        np.testing.assert_array_equal(boxes_around_points(points, valid), clean)


def test_boxes_move_and_grow_with_the_pose(rng: np.random.Generator) -> None:
    points, valid = rng.normal(size=(5, 17, 2)), np.ones((5, 17), bool)
    boxes = boxes_around_points(points, valid)
    np.testing.assert_allclose(boxes_around_points(points * 7 + 3, valid), boxes * 7 + 3)
    order = rng.permutation(17)
    np.testing.assert_array_equal(boxes_around_points(points[:, order], valid), boxes)


def test_degenerate_sides_and_absent_people() -> None:
    points = np.zeros((3, 17, 2))
    points[1, :, 0] = np.arange(17)
    valid = np.ones((3, 17), bool)
    valid[2] = False
    size = boxes_xyxy_to_xywh(boxes_around_points(points, valid))[:, 2:]
    side = DEGENERATE_SIDE * EXTENT_SCALE
    np.testing.assert_allclose(size[:2], [[side, side], [16 * EXTENT_SCALE, side]])
    assert np.isnan(size[2]).all()


# ---------------------------------------------------------------- crops


def test_crop_rectangles_have_the_inputs_shape_and_hold_the_box(rng: np.random.Generator) -> None:
    boxes = random_boxes(rng, 100)
    rectangles = crop_rectangles(boxes, INPUT_HW)
    size, box_size = rectangles[:, 2:] - rectangles[:, :2], boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(size[:, 0] / size[:, 1], INPUT_HW[1] / INPUT_HW[0])
    np.testing.assert_allclose(rectangles[:, :2] + size / 2, boxes[:, :2] + box_size / 2, atol=1e-9)
    # One side is the box's, the other has grown.
    np.testing.assert_allclose((size / CROP_MARGIN / box_size).min(-1), 1.0)


def test_affine_maps_the_rectangle_onto_the_whole_input(rng: np.random.Generator) -> None:
    rectangles = crop_rectangles(random_boxes(rng, 20), INPUT_HW)
    affine = crop_affine(rectangles, INPUT_HW)
    corners = transform_points(affine, rectangles.reshape(-1, 2, 2))
    np.testing.assert_allclose(corners[:, 0], 0.0, atol=1e-9)
    np.testing.assert_allclose(corners[:, 1], np.tile([INPUT_HW[1], INPUT_HW[0]], (20, 1)))


def test_affine_round_trip(rng: np.random.Generator) -> None:
    affine = random_affine(rng, 200)
    points = rng.uniform(-1000, 1000, (200, 17, 2))
    back = transform_points(invert_affine(affine), transform_points(affine, points))
    np.testing.assert_allclose(back, points, atol=1e-6)
    np.testing.assert_allclose(invert_affine(invert_affine(affine)), affine, atol=1e-6)


def test_transform_points_keeps_any_shape(rng: np.random.Generator) -> None:
    affine = random_affine(rng, 4)
    points = rng.normal(size=(4, 3, 17, 2))
    moved = transform_points(affine, points)
    assert moved.shape == points.shape
    np.testing.assert_allclose(moved[:, 1], transform_points(affine, points[:, 1]))
    np.testing.assert_allclose(moved[:, 1, 5], transform_points(affine, points[:, 1, 5]))


def test_rotation_keeps_the_centre_and_distances(rng: np.random.Generator) -> None:
    rectangles = crop_rectangles(random_boxes(rng, 30), INPUT_HW)
    angle = rng.uniform(-180, 180, 30)
    plain, turned = crop_affine(rectangles, INPUT_HW), crop_affine(rectangles, INPUT_HW, rotation=angle)
    centre = (rectangles[:, :2] + rectangles[:, 2:]) / 2
    np.testing.assert_allclose(
        transform_points(turned, centre[:, None]), transform_points(plain, centre[:, None]), atol=1e-9
    )
    points = rng.uniform(-300, 300, (30, 2, 2))
    before, after = transform_points(plain, points), transform_points(turned, points)
    np.testing.assert_allclose(
        np.linalg.norm(after[:, 0] - after[:, 1], axis=-1), np.linalg.norm(before[:, 0] - before[:, 1], axis=-1)
    )
    np.testing.assert_allclose(crop_affine(rectangles, INPUT_HW, rotation=np.full(30, 360.0)), plain, atol=1e-9)
    quarter = crop_affine(rectangles[:1], INPUT_HW, rotation=np.array([90.0]))[0]
    np.testing.assert_allclose(quarter[:, :2], np.array([[0.0, -1], [1, 0]]) @ plain[0, :, :2], atol=1e-12)


def test_mirrored_affine_is_the_mirror_of_the_plain_one(rng: np.random.Generator) -> None:
    rectangles, angle = crop_rectangles(random_boxes(rng, 30), INPUT_HW), rng.uniform(-40, 40, 30)
    plain = crop_affine(rectangles, INPUT_HW, rotation=angle)
    both = crop_affine(rectangles, INPUT_HW, rotation=angle, mirror=np.ones(30, bool))
    none = crop_affine(rectangles, INPUT_HW, rotation=angle, mirror=np.zeros(30, bool))
    points = rng.uniform(-300, 300, (30, 17, 2))
    expected = flip_points(transform_points(plain, points), INPUT_HW[1], COCO.flip_indices)
    np.testing.assert_allclose(transform_points(both, points)[:, COCO.flip_indices], expected, atol=1e-9)
    np.testing.assert_array_equal(none, plain)


def test_flip_points_is_its_own_inverse_and_mutates_nothing(rng: np.random.Generator) -> None:
    points = rng.normal(size=(6, 17, 2)) * 100
    original = points.copy()
    once = flip_points(points, 192, COCO.flip_indices)
    np.testing.assert_allclose(flip_points(once, 192, COCO.flip_indices), points)
    np.testing.assert_array_equal(points, original)
    np.testing.assert_allclose(once[:, COCO.index("left_knee"), 0], 191 - points[:, COCO.index("right_knee"), 0])


def test_no_people() -> None:
    no_people = np.zeros((0, 17, 2))
    boxes = boxes_around_points(no_people, np.zeros((0, 17), bool))
    affine = crop_affine(crop_rectangles(boxes, INPUT_HW), INPUT_HW, rotation=np.zeros(0), mirror=np.zeros(0, bool))
    assert boxes.shape == (0, 4)
    assert invert_affine(affine).shape == affine.shape == (0, 2, 3)
    assert transform_points(affine, no_people).shape == (0, 17, 2)
    assert flip_points(no_people, 192, COCO.flip_indices).shape == (0, 17, 2)
    assert box_area(boxes).shape == (0,)
    assert transform_points(np.zeros((2, 2, 3)), np.zeros((2, 0, 2))).shape == (2, 0, 2)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("box_height", [60.0, 250.0, 900.0, 1700.0])
def test_the_image_goes_where_its_points_go(box_height: float, antialias: bool) -> None:
    spot = np.array([820.3, 431.7])
    image = blob((1100, 1600), spot, std=max(box_height / 30, 4))
    box = np.array([[spot[0] - 30, spot[1] - box_height / 2 + 8, spot[0] + 40, spot[1] + box_height / 2]])
    affine = crop_affine(crop_rectangles(box, INPUT_HW), INPUT_HW, rotation=np.array([25.0]))
    crop = warp_crop(image, affine[0], INPUT_HW, antialias=antialias)
    assert crop.shape == (*INPUT_HW, 3)
    np.testing.assert_allclose(centroid(crop), transform_points(affine, spot[None, None])[0, 0], atol=0.15)


@pytest.mark.parametrize("antialias", [False, True])
def test_mirrored_crop_is_the_crop_mirrored(antialias: bool, rng: np.random.Generator) -> None:
    image = cv2.GaussianBlur(rng.integers(0, 256, (700, 900, 3)).astype(np.uint8), (0, 0), 6)
    for box in ([100.0, 80, 300, 400], [-100, -50, 400, 900], [400, 300, 460, 380]):
        rectangle = crop_rectangles(np.array([box]), INPUT_HW)
        plain = warp_crop(image, crop_affine(rectangle, INPUT_HW)[0], INPUT_HW, antialias=antialias)
        mirror = crop_affine(rectangle, INPUT_HW, mirror=np.array([True]))[0]
        mirrored = warp_crop(image, mirror, INPUT_HW, antialias=antialias)
        assert np.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 2


def test_identity_crop_is_the_image(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (300, 200, 3)).astype(np.uint8)
    affine = np.array([[1.0, 0, -3], [0, 1, -5]])
    np.testing.assert_array_equal(warp_crop(image, affine, INPUT_HW), image[5:261, 3:195])
    np.testing.assert_array_equal(warp_crop(image, affine, INPUT_HW, antialias=True), image[5:261, 3:195])


def test_antialias_averages_what_plain_warping_aliases() -> None:
    # A one-pixel chequerboard shrunk eightfold is grey; bilinear sampling alone shows some of its squares.
    chequers = ((np.indices((2048, 1536)).sum(0) % 2) * 255).astype(np.uint8)
    image = np.repeat(chequers[..., None], 3, 2)
    affine = crop_affine(np.array([[0.0, 0, 1536, 2048]]), INPUT_HW)[0]
    smooth = warp_crop(image, affine, INPUT_HW, antialias=True)[1:-1, 1:-1]
    assert np.abs(smooth.astype(int) - 127).max() <= 2
    assert np.abs(warp_crop(image, affine, INPUT_HW)[1:-1, 1:-1].astype(int) - 127).max() > 100


@pytest.mark.parametrize(
    "box", [[-900.0, 0, -500, 400], [2000, 0, 2400, 400], [0, -900, 300, -500], [0, 5000, 300, 5400]]
)
def test_crops_wholly_outside_are_black(box: list[float]) -> None:
    image = np.full((480, 640, 3), 200, np.uint8)
    affine = crop_affine(crop_rectangles(np.array([box]), INPUT_HW), INPUT_HW)[0]
    for antialias in (False, True):
        assert not warp_crop(image, affine, INPUT_HW, antialias=antialias).any()


def test_outside_is_black_and_inside_is_the_image() -> None:
    image = np.full((480, 640, 3), 200, np.uint8)
    affine = crop_affine(crop_rectangles(np.array([[-100.0, -100, 200, 300]]), INPUT_HW), INPUT_HW)
    crop = warp_crop(image, affine[0], INPUT_HW)
    origin = transform_points(affine, np.zeros((1, 1, 2)))[0, 0]
    rows, columns = np.mgrid[: INPUT_HW[0], : INPUT_HW[1]]
    assert (crop[(rows > origin[1] + 1) & (columns > origin[0] + 1)] == 200).all()
    assert not crop[(rows < origin[1] - 1) | (columns < origin[0] - 1)].any()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("wide", [True, False])
def test_images_longer_than_opencv_takes(wide: bool, antialias: bool) -> None:
    spot = np.array([39000.4, 30.2]) if wide else np.array([30.2, 39000.4])
    hw = (64, 40000) if wide else (40000, 64)
    image = np.zeros((*hw, 3), np.uint8)
    low = (spot - 24).astype(int)
    image[low[1] : low[1] + 48, low[0] : low[0] + 48] = blob((48, 48), spot - low, 5)
    box = np.array([[spot[0] - 28, spot[1] - 30, spot[0] + 30, spot[1] + 28]])
    affine = crop_affine(crop_rectangles(box, INPUT_HW), INPUT_HW)
    crop = warp_crop(image, affine[0], INPUT_HW, antialias=antialias)
    np.testing.assert_allclose(centroid(crop), transform_points(affine, spot[None, None])[0, 0], atol=0.15)


@pytest.mark.parametrize("antialias", [False, True])
def test_crops_that_span_more_than_opencv_takes(antialias: bool) -> None:
    image = np.zeros((64, 40000, 3), np.uint8)
    image[:, 30000:32000] = 255
    affine = crop_affine(crop_rectangles(np.array([[0.0, 0, 40000, 64]]), INPUT_HW), INPUT_HW)
    crop = warp_crop(image, affine[0], INPUT_HW, antialias=antialias)
    seen = np.flatnonzero(crop[..., 0].max(0) > 0)
    expected = transform_points(affine, np.array([[[30000.0, 32], [32000, 32]]]))[0, :, 0]
    np.testing.assert_allclose([seen[0], seen[-1]], expected, atol=1.5)


def test_tiny_images_and_senseless_maps() -> None:
    image = np.full((1, 1, 3), 77, np.uint8)
    affine = crop_affine(crop_rectangles(np.array([[-1.0, -1, 1, 1]]), INPUT_HW), INPUT_HW)[0]
    assert warp_crop(image, affine, INPUT_HW).max() == 77
    for value in (np.nan, np.inf):
        broken = affine.copy()
        broken[0, 2] = value
        assert not warp_crop(image, broken, INPUT_HW).any()
    assert not warp_crop(image, np.zeros((2, 3)), INPUT_HW).any()


def test_the_three_channels_are_those_that_opencv_gives_alone(rng: np.random.Generator) -> None:
    """Four are warped at once, since that is faster."""
    image = rng.integers(0, 256, (150, 110, 3), dtype=np.uint8)
    affine = crop_affine(np.array([[10.3, 20.7, 60.0, 85.7]]), INPUT_HW, rotation=np.array([20.0]))
    crop = warp_crop(image, affine[0], INPUT_HW, antialias=True)
    for channel in range(3):
        alone = cv2.warpAffine(np.ascontiguousarray(image[..., channel]), affine[0], INPUT_HW[::-1])
        assert np.abs(crop[..., channel].astype(int) - alone).max() <= 1


@pytest.mark.parametrize("antialias", [True, False])
def test_crops_do_not_depend_on_the_others(rng: np.random.Generator, antialias: bool) -> None:
    image = rng.integers(0, 256, (600, 800, 3)).astype(np.uint8)
    affine = random_affine(rng, 12)
    affine[:4] *= 0.1  # shrunk
    affine[4, 0, 2], affine[5], affine[6, :, 2] = np.nan, 0, 1e6
    crops = warp_crops(image, affine, INPUT_HW, antialias=antialias)
    assert crops.any((1, 2, 3)).sum() > 6
    for crop, one in zip(crops, affine, strict=True):
        np.testing.assert_array_equal(crop, warp_crop(image, one, INPUT_HW, antialias=antialias))
    assert warp_crops(image, affine[:0], INPUT_HW, antialias=antialias).shape == (0, *INPUT_HW, 3)


def test_warping_mutates_nothing(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (300, 200, 3)).astype(np.uint8)
    affine = random_affine(rng, 1)[0]
    image_before, affine_before = image.copy(), affine.copy()
    warp_crop(image, affine, INPUT_HW, antialias=True)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(affine, affine_before)


def test_boxes_of_any_leading_shape(rng: np.random.Generator) -> None:
    corner = rng.uniform(0, 9, (5, 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 9, (5, 3, 2))], -1)
    flat = boxes.reshape(-1, 4)
    np.testing.assert_array_equal(boxes_xyxy_to_xywh(boxes).reshape(-1, 4), boxes_xyxy_to_xywh(flat))
    np.testing.assert_array_equal(boxes_xywh_to_xyxy(boxes).reshape(-1, 4), boxes_xywh_to_xyxy(flat))
    np.testing.assert_array_equal(box_area(boxes).reshape(-1), box_area(flat))


def test_iou_of_boxes_below_a_pixel() -> None:
    small = np.array([[3.0, 3.0, 3.1, 3.1]])
    assert box_iou(small, small).tolist() == [[1.0]]


def test_plain_crops_are_bilinear_at_32nds_of_a_pixel(rng: np.random.Generator) -> None:
    """Against the definition, written down anew; the last rounding may differ by one grey level."""
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    affine = np.array([[1.3, 0.4, -9.0], [-0.35, 1.1, 3.0]])
    crop = warp_crop(image, affine, (32, 24)).astype(np.float64)
    columns, rows = np.meshgrid(np.arange(24), np.arange(32))
    place = transform_points(invert_affine(affine[None]), np.stack([columns, rows], -1).reshape(1, -1, 2))[0]
    place = np.floor(place * 32 + 0.5) / 32
    whole = np.floor(place).astype(int)
    inside = ((whole >= 0) & (whole < [49, 39])).all(-1)
    x, y = whole[inside].T
    fx, fy = (place - whole)[inside].T[..., None]
    above = image[y, x] * (1 - fx) + image[y, x + 1] * fx
    below = image[y + 1, x] * (1 - fx) + image[y + 1, x + 1] * fx
    expected = above * (1 - fy) + below * fy
    assert inside.sum() > 300
    difference = np.abs(crop.reshape(-1, 3)[inside] - expected)
    # A position may fall on the other side of a rounding: 1/32 px of at most 255 grey levels.
    assert np.quantile(difference, 0.95) < 1
    assert difference.max() < 10
