"""Measure the temperature of a weights folder on held-out results; write it and the other settings to config.json.

    python tools/calibrate.py WEIGHTS DATA [--policy safe --margin 0.01 --trust 1.2 --usual-departure 0.033]

DATA holds val.json, val/ and results/*.json in COCO format.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_entries
from posefix.io.coco import read_annotations, read_results
from posefix.training.calibration import calibration_error, fit_temperature, observe, predict
from posefix.weights.calibration import Calibration
from posefix.weights.weights import load_weights, save_weights


def main() -> None:
    """Fit, report, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("data", type=Path)
    parser.add_argument("--policy", choices=("safe", "always"), default="safe")
    parser.add_argument("--margin", type=float, default=0.0)
    parser.add_argument("--trust", type=float, help="power of the pose prior for a usual estimator; default as it is")
    parser.add_argument("--usual-departure", type=float, help="such an estimator's departures; default as they are")
    options = parser.parse_args()
    weights = load_weights(options.weights)
    skeleton, codec = weights.skeleton, weights.config.codec
    annotations = read_annotations(options.data / "val.json", skeleton)
    paths = sorted((options.data / "results").glob("*.json"))
    files = [read_results(p) for p in paths]
    stored = weights.calibration
    plain = Calibration(
        prior_weight=stored.prior_weight if options.prior_weight is None else options.prior_weight,
        reference_outlier_rate=stored.reference_outlier_rate
        if options.reference_outlier_rate is None
        else options.reference_outlier_rate,
    )
    any_share = Refiner(replace(weights, calibration=replace(plain, reference_outlier_rate=0.5)))
    for path, file in zip(paths, files, strict=True) if any_share.measures_reliability else ():
        report = refine_entries(any_share, file.entries, options.data / "val", annotations=annotations)[1]
        share = report.outliers / max(report.confident, 1)
        print(f"{path.name}: departures {share:.4f} ({report.outliers} of {report.confident} keypoints)")
    seen = observe(replace(weights, calibration=plain), annotations, options.data / "val", files)
    temperature = fit_temperature(seen, codec, skeleton)
    for name, heat in (("before", (1.0,) * len(skeleton)), ("after", temperature)):
        confidence, similarity = predict(seen, codec, skeleton.sigmas, heat)
        error = calibration_error(confidence[seen.ground_truth], similarity[seen.ground_truth])
        print(f"expected calibration error {name}: {error:.4f}")
    print("temperature by part:", dict(zip(skeleton.parts, temperature, strict=True)))
    calibration = replace(
        plain, policy=options.policy, temperature=temperature, margin=(options.margin,) * len(skeleton)
    )
    save_weights(options.weights, replace(weights, calibration=calibration), half=True)


if __name__ == "__main__":
    main()
