from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import yaml

from factories import annotation_file, shared_dir
from posefix.evaluation.matching import others_of
from posefix.exceptions import InputError
from posefix.io.coco import annotations_of
from posefix.keypoints.skeleton import COCO
from posefix.pose_errors.rates import error_rates_from_results
from posefix.pose_errors.synthesis import REFERENCE_RATES, ErrorRates, PartRates, PoseError, synthesize

#: Unlike the reference's, and unlike each other wherever the generator tells conditions apart.
KNOWN = ErrorRates(
    {
        "knee": PartRates((0.10, 0.20), (0.30, 0.22, 0.12), 0.12, (0.20, 0.10)),
        "nose": PartRates((0.25, 0.05), (0.05, 0.15, 0.25), 0.00, (0.05, 0.15)),
    },
    PartRates((0.30, 0.15), (0.10, 0.20, 0.05), 0.08, (0.05, 0.15)),
)


def crowd_of_people(rng: np.random.Generator, images: int) -> dict[str, Any]:
    """An annotation file of small people far apart, in boxes that overlap: alone, in pairs and in fives."""
    data: dict[str, Any] = {"images": [{"id": i} for i in range(images)], "annotations": [], "categories": [{"id": 1}]}
    for image in range(images):
        for _ in range((1, 2, 5)[image % 3]):
            pose = np.concatenate([rng.uniform(0, 1000, (17, 2)), np.full((17, 1), 2)], axis=-1).astype(np.float32)
            pose[rng.permutation(17)[: rng.choice([0, 3, 8, 13], p=[0.3, 0.3, 0.2, 0.2])]] = 0
            # A box of all has all for other instances; a small area makes errors small against the distances.
            person = {"image_id": image, "keypoints": pose.reshape(-1).tolist(), "bbox": [0, 0, 1000, 1000]}
            data["annotations"].append({**person, "area": 400.0, "category_id": 1})
    return data


def synthetic_results(data: dict[str, Any], rates: ErrorRates, rng: np.random.Generator) -> list[dict[str, Any]]:
    truth = annotations_of(data, COCO)
    seen = truth.ground_truth[..., 2] > 0
    near, overlap = others_of(truth, np.arange(len(truth)), 0.1)
    points, _ = synthesize(
        truth.ground_truth[..., :2], seen, COCO, truth.area, rng, others=near, overlap=overlap, rates=rates
    )
    pose = np.nan_to_num(np.concatenate([points, np.ones((*seen.shape, 1))], axis=-1))
    return [
        {"image_id": int(i), "category_id": 1, "score": 1.0, "keypoints": p.reshape(-1).tolist()}
        for i, p in zip(truth.image_ids, pose, strict=True)
    ]


@pytest.fixture(scope="module")
def known() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    data = crowd_of_people(rng, 3000)
    return data, synthetic_results(data, KNOWN, rng)


def test_known_rates_are_measured(known: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    measured = error_rates_from_results(*known, strength=0.0)
    for part in ("knee", "nose", "wrist", "eye", "hip"):
        rates, expected = measured.parts[part], KNOWN.parts.get(part, KNOWN.other)
        for kind in ("jitter", "miss", "swap"):
            got, true = np.array(getattr(rates, kind)), np.array(getattr(expected, kind))
            # Four standard errors: the fewest are some 370 noses of people with at most 5 keypoints.
            seen = np.array([370, 800, 800]) if kind == "miss" else 1000
            assert (np.abs(got - true) < 4 * np.sqrt(true * (1 - true) / seen)).all(), (part, kind, got, true)
        if part != "nose":
            assert rates.inversion == pytest.approx(expected.inversion, abs=0.01)


def test_measuring_what_was_made_from_a_measurement_gives_it_again(
    known: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    first = error_rates_from_results(*known)
    again = synthetic_results(known[0], first, np.random.default_rng(1))
    second = error_rates_from_results(known[0], again, strength=0.0)
    for part, rates in first.parts.items():
        np.testing.assert_allclose(second.parts[part].miss, rates.miss, atol=0.05)
        np.testing.assert_allclose(second.parts[part].jitter, rates.jitter, atol=0.05)


def test_few_keypoints_lean_on_the_prior() -> None:
    data = crowd_of_people(np.random.default_rng(2), 300)
    entries = synthetic_results(data, KNOWN, np.random.default_rng(2))
    prior = error_rates_from_results(data, [])
    assert prior.to_dict() == ErrorRates().to_dict()
    bare = error_rates_from_results(data, entries, strength=0.0).parts["knee"].inversion
    prior = REFERENCE_RATES["knee"].inversion
    gaps = [error_rates_from_results(data, entries, strength=s).parts["knee"].inversion - prior for s in (10, 1e4, 1e9)]
    assert bare - prior > gaps[0] > gaps[1] > gaps[2] >= 0
    assert gaps[2] < 1e-4
    custom = error_rates_from_results(data, [], prior=KNOWN)
    assert custom.parts["knee"] == KNOWN.parts["knee"]
    assert custom.parts["wrist"] == custom.other == KNOWN.other


def test_missing_keypoints_are_no_errors_of_the_generator() -> None:
    data = annotation_file(np.random.default_rng(0), images=40)
    entries = [
        {"image_id": a["image_id"], "category_id": 1, "score": 1.0, "keypoints": list(a["keypoints"])}
        for a in data["annotations"]
    ]
    for entry in entries:
        entry["keypoints"][9 * 3 : 9 * 3 + 3] = [0, 0, 0]  # every left wrist
    assert error_rates_from_results(data, entries).parts["wrist"].miss[2] < REFERENCE_RATES["wrist"].miss[2]


def test_hopeless_results_still_give_rates() -> None:
    rng = np.random.default_rng(0)
    data = crowd_of_people(rng, 300)
    worst = ErrorRates({}, PartRates((0.0, 0.0), (1.0, 1.0, 1.0), 0.0, (0.0, 0.0)))
    measured = error_rates_from_results(data, synthetic_results(data, worst, rng), strength=0.0)
    for rates in measured.parts.values():
        assert 0.9 < rates.worst <= 0.95 + 1e-9


def test_a_senseless_strength_is_refused() -> None:
    for strength in (-1.0, float("nan")):
        with pytest.raises(InputError, match="strength"):
            error_rates_from_results(annotation_file(np.random.default_rng(0)), [], strength=strength)


def test_real_estimators() -> None:
    coco = shared_dir() / "data" / "coco"
    strong, weak = (
        error_rates_from_results(coco / "val.json", coco / "results" / f"{name}.json")
        for name in ("tinypose_256", "posenet")
    )
    assert all(weak.parts[part].worst > strong.parts[part].worst for part in REFERENCE_RATES)


# ---------------------------------------------------------------- as plain data


@pytest.mark.parametrize("rates", [ErrorRates(), KNOWN, ErrorRates({})], ids=["reference", "known", "empty"])
def test_rates_travel_as_json_and_yaml(rates: ErrorRates) -> None:
    for data in (json.loads(json.dumps(rates.to_dict())), yaml.safe_load(yaml.safe_dump(rates.to_dict()))):
        back = ErrorRates.from_dict(data)
        assert dict(back.parts) == dict(rates.parts)
        assert back.other == rates.other


def test_a_missing_other_is_the_default() -> None:
    data = {"knee": KNOWN.to_dict()["knee"]}
    assert ErrorRates.from_dict(data).other == ErrorRates().other


@pytest.mark.parametrize(
    "change",
    [
        {"jitter": [0.1]},
        {"miss": [0.1, 0.1]},
        {"swap": 0.1},
        {"inversion": "often"},
        {"inversion": float("nan")},
        {"miss": [0.1, float("nan"), 0.1]},
        {"jitter": [0.9, 0.1], "miss": [0.2, 0.1, 0.1]},
        {"jitters": [0.1, 0.1]},
    ],
)
def test_senseless_data_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="error rates"):
        ErrorRates.from_dict({"knee": {**KNOWN.to_dict()["knee"], **change}})
    with pytest.raises(InputError, match="error rates"):
        ErrorRates.from_dict({"knee": 0.1})  # type: ignore[dict-item]


def test_only_errors_that_can_meet_must_sum_to_one() -> None:
    """Jitter with many keypoints and misses with few never occur together."""
    rates = PartRates((0.1, 0.8), (0.8, 0.1, 0.1), 0.05, (0.05, 0.05))
    table = ErrorRates({}, rates).table(COCO, np.array([3, 8, 17]), np.array([1, 1, 1]))
    assert (table[..., PoseError.GOOD] >= 0).all()
    assert rates.worst == pytest.approx(1.0)
