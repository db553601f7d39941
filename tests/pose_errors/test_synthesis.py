from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from posefix.exceptions import InputError
from posefix.keypoints.oks import keypoint_similarity
from posefix.keypoints.skeleton import COCO, CROWDPOSE, MPII, POSETRACK18, Skeleton
from posefix.pose_errors.synthesis import REFERENCE_RATES, ErrorRates, PartRates, PoseError, synthesize

SIGMAS = np.array(COCO.sigmas)
AREA = 12000.0
#: Similarity thresholds are reached with float32 points, hence a little tolerance.
EPS = 2e-3
Floats = npt.NDArray[np.float64]


def person(rng: np.random.Generator, skeleton: Skeleton = COCO) -> Floats:
    """(K, 2) points some 200 px apart."""
    return rng.uniform(0, 200, (len(skeleton), 2))


def crowd(people: int, others: int = 2, seed: int = 0) -> dict[str, Any]:
    """Arguments for ``synthesize``: many different poses with other instances at their side."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 200, (people, 17, 2))
    near = np.concatenate([rng.uniform(0, 250, (people, others, 17, 2)), np.full((people, others, 17, 1), 2.0)], -1)
    return {
        "centres": centres,
        "ground_truth_mask": np.ones((people, 17), bool),
        "skeleton": COCO,
        "area": np.full(people, AREA),
        "others": near,
    }


def draw(arguments: dict[str, Any], seed: int = 0, **changes: Any) -> tuple[Any, Any]:
    return synthesize(**{**arguments, **changes}, rng=np.random.default_rng(seed))


def only(kind: str) -> ErrorRates:
    """Rates at which every keypoint gets this kind if it can."""
    zero = {"jitter": (0.0, 0.0), "miss": (0.0, 0.0, 0.0), "inversion": 0.0, "swap": (0.0, 0.0)}
    one = {"jitter": (1.0, 1.0), "miss": (1.0, 1.0, 1.0), "inversion": 1.0, "swap": (1.0, 1.0)}
    rates = PartRates(**{**zero, kind: one[kind]})  # type: ignore[arg-type]
    return ErrorRates(parts={}, other=rates)


def similarities(points: Floats, arguments: dict[str, Any]) -> tuple[Floats, Floats, Floats]:
    """Similarity to the own keypoint, the own mirror, and the best of all other instances' (same or mirror)."""
    centres, area = arguments["centres"], arguments["area"]
    mirror = keypoint_similarity(points, centres[:, COCO.flip_indices], area, SIGMAS)
    mirror = np.where(COCO.flip_indices == np.arange(17), 0.0, mirror)
    near = arguments["others"][..., :2]
    both = np.concatenate([near, near[:, :, COCO.flip_indices]], 1)
    swap = keypoint_similarity(points[:, None], both, area[:, None], SIGMAS)
    return keypoint_similarity(points, centres, area, SIGMAS), mirror, swap.max(1, initial=0.0)


# ---------------------------------------------------------------- what each kind means


@pytest.mark.parametrize("others", [0, 1, 3])
def test_kinds_say_what_the_similarities_show(others: int) -> None:
    arguments = crowd(3000, others)
    points, kinds = draw(arguments)
    own, mirror, swap = similarities(points, arguments)
    good, jitter = kinds == PoseError.GOOD, kinds == PoseError.JITTER
    moved = good & (points != arguments["centres"].astype(np.float32)).any(-1)
    assert (own[good] >= 0.85 - EPS).all()
    assert ((own[jitter] >= 0.5 - EPS) & (own[jitter] <= 0.85 + EPS)).all()
    # Good and jitter are nearer to their own keypoint than to any other candidate.
    for kind in (moved, jitter):
        assert (own[kind] >= np.maximum(mirror, swap)[kind] - EPS).all()
    inverted = kinds == PoseError.INVERSION
    assert (mirror[inverted] >= 0.5 - EPS).all()
    assert (mirror[inverted] >= np.maximum(own, swap)[inverted] - EPS).all()
    assert not inverted[:, COCO.flip_indices == np.arange(17)].any()
    swapped = kinds == PoseError.SWAP
    assert (swap[swapped] >= 0.5 - EPS).all()
    assert (swap[swapped] >= np.maximum(own, mirror)[swapped] - EPS).all()
    missed = kinds == PoseError.MISS
    best = np.maximum(np.maximum(own, mirror), swap)[missed]
    assert ((best <= 0.5 + EPS) & (best >= 0.1 - EPS)).all()
    assert swapped.any() == (others > 0)
    assert all((kinds == k).any() for k in PoseError if k not in (PoseError.NONE, PoseError.SWAP))


@pytest.mark.parametrize("kind", ["jitter", "miss", "inversion", "swap"])
def test_a_sure_kind_is_what_one_gets_where_it_is_possible(kind: str) -> None:
    arguments = crowd(300, 1)
    _, kinds = draw(arguments, rates=only(kind))
    wanted = PoseError[kind.upper()]
    possible = COCO.flip_indices != np.arange(17) if kind == "inversion" else np.ones(17, bool)
    assert (kinds[:, possible] == wanted).mean() > 0.99
    assert set(np.unique(kinds)) <= {PoseError.GOOD, wanted}
    assert (kinds[:, ~possible] == PoseError.GOOD).all()


def test_radii_are_uniform_between_the_thresholds() -> None:
    """On a lone keypoint nothing is rejected: the radius is uniform and the direction too."""
    skeleton = Skeleton("dot", ("nose",), (0.05,))
    many = 20000
    centres = np.full((many, 1, 2), 100.0)
    mask, area = np.ones((many, 1), bool), np.full(many, AREA)
    std = np.sqrt(AREA) * 0.1
    r10, r50, r85 = (std * np.sqrt(-2 * np.log(ks)) for ks in (0.1, 0.5, 0.85))
    for kind, low, high in (("jitter", r85, r50), ("miss", r50, r10)):
        points, kinds = synthesize(centres, mask, skeleton, area, np.random.default_rng(0), rates=only(kind))
        assert (kinds == PoseError[kind.upper()]).all()
        radius = np.linalg.norm(points - centres, axis=-1)
        share = (radius - low) / (high - low)
        assert abs(share.mean() - 0.5) < 0.01
        assert abs(share.std() - 1 / np.sqrt(12)) < 0.01
        assert (np.abs((points - centres).mean((0, 1))) < 0.5).all()


def test_miss_prefers_the_own_keypoint_fourfold() -> None:
    """Own and mirror far apart, nothing rejected: four of five misses lie around the own keypoint."""
    skeleton = Skeleton("pair", ("left_hand", "right_hand"), (0.05, 0.05))
    many = 20000
    centres = np.tile(np.array([[0.0, 0], [9000, 0]]), (many, 1, 1))
    points, _ = synthesize(
        centres,
        np.ones((many, 2), bool),
        skeleton,
        np.full(many, AREA),
        np.random.default_rng(0),
        rates=only("miss"),
    )
    near_own = np.abs(points[..., 0] - centres[..., 0]) < 4500
    assert abs(near_own.mean() - 0.8) < 0.01


# ---------------------------------------------------------------- frequencies

#: the paper's code, row by row.
FACE = ("nose", "eye", "ear")
TABLE_JITTER = {"nose": (0.15, 0.10), "eye": (0.20, 0.15), "ear": (0.20, 0.15), "shoulder": (0.20, 0.15),
                "elbow": (0.20, 0.15), "wrist": (0.20, 0.15), "hip": (0.25, 0.20), "knee": (0.15, 0.10),
                "ankle": (0.15, 0.10)}  # fmt: skip
TABLE_MISS = {**dict.fromkeys(FACE, (0.15, 0.10, 0.02)), "shoulder": (0.20, 0.13, 0.05), "elbow": (0.25, 0.15, 0.10),
              "wrist": (0.25, 0.15, 0.10), "hip": (0.25, 0.15, 0.10), "knee": (0.25, 0.15, 0.10),
              "ankle": (0.20, 0.13, 0.05)}  # fmt: skip
TABLE_INVERSION = {**dict.fromkeys(FACE, 0.01), **dict.fromkeys(("shoulder", "elbow", "wrist"), 0.03),
                   **dict.fromkeys(("hip", "knee", "ankle"), 0.06)}  # fmt: skip
TABLE_SWAP = {**dict.fromkeys(FACE, (0.02, 0.01)), **dict.fromkeys(("shoulder", "elbow", "wrist"), (0.15, 0.06)),
              **dict.fromkeys(("hip", "knee", "ankle"), (0.10, 0.03))}  # fmt: skip


@pytest.mark.parametrize("skeleton", [COCO, MPII, POSETRACK18, CROWDPOSE], ids=lambda s: s.name)
def test_table_is_the_references(skeleton: Skeleton) -> None:
    counts = np.arange(1, 18)
    for overlap in range(5):
        table = ErrorRates().table(skeleton, counts, np.full(17, overlap))
        assert table.shape == (17, len(skeleton), 5)
        np.testing.assert_allclose(table.sum(-1), 1.0, rtol=1e-6)
        assert (table >= 0).all()
        for row, nv in zip(table, counts, strict=True):
            crowded = (nv <= 10 and overlap > 0) or (nv <= 15 and overlap >= 3)
            for part, rates in zip(skeleton.parts, row, strict=True):
                if part in TABLE_JITTER:
                    expected = [
                        TABLE_JITTER[part][int(nv > 10)],
                        TABLE_INVERSION[part],
                        TABLE_SWAP[part][0 if crowded else 1],
                        TABLE_MISS[part][int(nv > 5) + int(nv > 10)],
                    ]
                    np.testing.assert_allclose(rates, [1 - sum(expected), *expected], rtol=1e-5)


def test_every_part_of_coco_has_its_own_rates() -> None:
    assert set(COCO.parts) == set(REFERENCE_RATES) == set(TABLE_SWAP)


@pytest.mark.parametrize(("ground_truth", "overlap"), [(17, 1), (15, 3), (10, 1), (5, 0)])
def test_frequencies_converge_to_the_table(ground_truth: int, overlap: int) -> None:
    """With candidates so far apart that nothing is rejected, kinds come at the table's rates."""
    many = 20000
    centres = np.tile(np.arange(17.0)[:, None] * [3000.0, 0], (many, 1, 1))
    mask = np.zeros((many, 17), bool)
    mask[:, :ground_truth] = True
    near = np.concatenate([centres[:, None] + [0, 3000.0], np.full((many, 1, 17, 1), 2.0)], -1)
    points, kinds = synthesize(
        centres, mask, COCO, np.full(many, AREA), np.random.default_rng(1), others=near, overlap=[overlap] * many
    )
    expected = ErrorRates().table(COCO, np.array([ground_truth]), np.array([overlap]))[0].astype(float)
    mirrored = mask[:, COCO.flip_indices][0] & (COCO.flip_indices != np.arange(17))
    expected[:, PoseError.INVERSION] *= mirrored
    expected /= expected.sum(-1, keepdims=True)
    for k in range(ground_truth):
        share = np.bincount(kinds[:, k], minlength=5) / many
        # Five standard errors.
        assert (np.abs(share - expected[k]) <= 5 * np.sqrt(expected[k] * (1 - expected[k]) / many) + 1e-9).all(), k
    assert (kinds[:, ground_truth:] == PoseError.NONE).all()
    assert np.isnan(points[:, ground_truth:]).all()


def test_impossible_kinds_leave_their_rate_to_the_others() -> None:
    alone = crowd(20000, 0)
    alone["centres"] = np.tile(np.arange(17.0)[:, None] * [3000.0, 0], (20000, 1, 1))
    _, kinds = draw(alone)
    table = ErrorRates().table(COCO, np.array([17]), np.array([0]))[0]
    nose = np.bincount(kinds[:, 0], minlength=5) / 20000
    expected = table[0] * [1, 1, 0, 0, 1]
    assert (nose[[PoseError.INVERSION, PoseError.SWAP]] == 0).all()
    np.testing.assert_allclose(nose, expected / expected.sum(), atol=0.015)


def test_overlap_defaults_to_the_neighbours_that_are_there() -> None:
    arguments = crowd(2000, 3)
    arguments["ground_truth_mask"][:, 12:] = False
    arguments["others"][::2, 1:] = 0.0
    counted = np.where(np.arange(2000) % 2 == 0, 1, 3)
    for first, second in zip(draw(arguments), draw(arguments, overlap=counted), strict=True):
        np.testing.assert_array_equal(first, second)


# ---------------------------------------------------------------- the world around


def test_the_same_rng_gives_the_same_poses_and_another_others() -> None:
    arguments = crowd(50)
    first, again, other = draw(arguments, 3), draw(arguments, 3), draw(arguments, 4)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_nothing_is_mutated() -> None:
    arguments = crowd(50)
    arguments["centre_mask"] = np.ones((50, 17), bool)
    before = {k: v.copy() for k, v in arguments.items() if isinstance(v, np.ndarray)}
    draw(arguments)
    for name, value in before.items():
        np.testing.assert_array_equal(arguments[name], value)


def test_shapes_and_types() -> None:
    points, kinds = draw(crowd(7))
    assert points.shape == (7, 17, 2)
    assert points.dtype == np.float32
    assert kinds.shape == (7, 17)
    assert kinds.dtype == np.int8


@pytest.mark.parametrize("others", [0, 2])
def test_nobody(others: int) -> None:
    points, kinds = draw(crowd(0, others))
    assert points.shape == (0, 17, 2)
    assert kinds.shape == (0, 17)


def test_no_neighbours_however_said() -> None:
    arguments = crowd(200, 2)
    absent = np.zeros((200, 2, 17, 3))
    for first, second in zip(draw(arguments, others=None), draw(arguments, others=absent), strict=True):
        assert first.shape == second.shape
    for near in (None, absent[:, :0], absent):
        _, kinds = draw(arguments, others=near)
        assert not (kinds == PoseError.SWAP).any()


def test_rows_of_zeros_and_rubbish_without_visibility_are_nobody() -> None:
    arguments = crowd(500, 1)
    plain = draw(arguments)
    rubbish = np.concatenate([arguments["others"], arguments["others"]], 1)
    rubbish[:, 1, :, :2], rubbish[:, 1, :, 2] = np.nan, 0.0
    points, kinds = draw(arguments, others=rubbish)
    own, mirror, swap = similarities(points, arguments)
    assert np.isfinite(points).all()
    assert (np.maximum(np.maximum(own, mirror), swap) >= 0.1 - EPS).all()
    assert plain[1].shape == kinds.shape


def test_unannotated_keypoints_are_drawn_around_estimates_but_are_no_mirror() -> None:
    arguments = crowd(2000, 0)
    ground_truth = np.ones((2000, 17), bool)
    ground_truth[:, [9, 13]] = False  # left wrist and left knee
    centre = np.ones((2000, 17), bool)
    centre[:, 13] = False  # the left knee has no estimate either
    arguments["centres"][:, 13] = np.nan
    points, kinds = draw(arguments, ground_truth_mask=ground_truth, centre_mask=centre, rates=only("inversion"))
    assert (kinds[:, 13] == PoseError.NONE).all()
    assert np.isnan(points[:, 13]).all()
    assert np.isfinite(np.delete(points, 13, 1)).all()
    # Their mirrors cannot be inverted; the unannotated wrist itself can, its mirror is labelled.
    assert (kinds[:, [10, 14]] == PoseError.GOOD).all()
    assert (kinds[:, 9] == PoseError.INVERSION).mean() > 0.95


def test_nobody_annotated_at_all() -> None:
    arguments = crowd(5)
    arguments["ground_truth_mask"][2:] = False
    points, kinds = draw(arguments)
    assert (kinds[2:] == PoseError.NONE).all()
    assert np.isnan(points[2:]).all()
    assert np.isfinite(points[:2]).all()


def test_a_mask_of_integers_is_a_mask() -> None:
    arguments = crowd(50)
    arguments["ground_truth_mask"][:, 3] = False
    for first, second in zip(
        draw(arguments), draw(arguments, ground_truth_mask=arguments["ground_truth_mask"].astype(int)), strict=True
    ):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("area", [AREA, 0.0])
def test_everything_in_one_place(area: float) -> None:
    arguments = crowd(200, 2)
    arguments["centres"][:] = 50.0
    arguments["others"][..., :2] = 50.0
    points, kinds = draw(arguments, area=np.full(200, area))
    assert np.isfinite(points).all()
    assert ((kinds >= PoseError.GOOD) & (kinds <= PoseError.MISS)).all()
    good = kinds == PoseError.GOOD
    reach = np.sqrt(area) * 2 * SIGMAS.max() * np.sqrt(-2 * np.log(0.85))
    assert (np.linalg.norm(points - 50.0, axis=-1)[good] <= reach + 1e-3).all()


def test_it_moves_and_scales_with_the_frame() -> None:
    arguments = crowd(400, 1)
    points, kinds = draw(arguments)
    near = arguments["others"].copy()
    near[..., :2] = near[..., :2] * 4 + 16
    scaled, scaled_kinds = draw(
        arguments, centres=arguments["centres"] * 4 + 16, others=near, area=arguments["area"] * 16
    )
    # Float rounding may decide a rejection on the boundary otherwise, hence not all.
    same = (kinds == scaled_kinds) & (np.abs(scaled - (points * 4 + 16)).max(-1) < 1e-2)
    assert same.mean() > 0.999


def test_people_do_not_depend_on_each_other() -> None:
    """Corrupting a crowd at once has the distribution of corrupting its members one by one."""
    one = crowd(1, 1)
    many = {k: np.repeat(v, 4000, 0) if isinstance(v, np.ndarray) else v for k, v in one.items()}
    mixed = crowd(4000, 1, seed=5)
    blend = {k: np.concatenate([v, mixed[k]]) if isinstance(v, np.ndarray) else v for k, v in many.items()}
    apart, together = draw(many, 1)[1], draw(blend, 2)[1][:4000]
    for kind in range(5):
        first, second = (apart == kind).mean(0), (together == kind).mean(0)
        assert (np.abs(first - second) <= 5 * np.sqrt((first * (1 - first) + 1e-3) / 2000)).all()


def test_another_keypoint_set() -> None:
    rng = np.random.default_rng(0)
    skeleton = Skeleton("toy", ("tail", "left_paw", "right_paw"), (0.1, 0.05, 0.05))
    centres = np.stack([person(rng, skeleton) for _ in range(500)])
    points, kinds = synthesize(centres, np.ones((500, 3), bool), skeleton, np.full(500, AREA), rng)
    assert points.shape == (500, 3, 2)
    assert (kinds != PoseError.GOOD).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centres": np.zeros((5, 16, 2))}, r"centres: expected \(N, 17, 2\) for skeleton 'coco', got \(5, 16, 2\)"),
        ({"ground_truth_mask": np.ones((4, 17), bool)}, "annotated_mask and area"),
        ({"area": np.ones(4)}, "annotated_mask and area"),
        ({"others": np.zeros((5, 17, 3))}, r"others: expected \(5, M, 17, 3\)"),
        ({"others": np.zeros((4, 1, 17, 3))}, "others"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(crowd(5), **changes)


@pytest.mark.parametrize(
    "rates",
    [
        ((-0.1, 0.1), (0.1, 0.1, 0.1), 0.1, (0.1, 0.1)),
        ((0.5, 0.1), (0.3, 0.1, 0.1), 0.2, (0.1, 0.1)),
    ],
)
def test_senseless_rates_are_refused(rates: Any) -> None:
    with pytest.raises(InputError, match="error rates"):
        PartRates(*rates)
