"""Fit ``Calibration.presence`` of weights, and say how well confidences are calibrated with and without it.

    python tools/fit_presence.py WEIGHTS DATA [--results movenet tinypose_256]

WEIGHTS is a folder or ``embedded``; DATA holds val.json, val/ and results/*.json. Prints the coefficients for the
configuration, and the expected calibration error on people and on poses moved to empty places.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from posefix.io.coco import read_annotations, read_results
from posefix.training.calibration import calibration_error
from posefix.training.presence import PresenceObservations, confidences, fit_presence, observe_presence
from posefix.weights.weights import load_weights


def main() -> None:
    """Print coefficients and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("data", type=Path)
    parser.add_argument("--results", nargs="+", default=["movenet", "tinypose_256"])
    options = parser.parse_args()
    weights = load_weights(None if options.weights == "embedded" else options.weights)
    truth = read_annotations(options.data / "val.json", weights.skeleton)
    parts = [
        observe_presence(weights, truth, options.data / "val", read_results(options.data / "results" / f"{name}.json"))
        for name in options.results
    ]
    seen = PresenceObservations(*(np.concatenate([getattr(p, n) for p in parts]) for n in vars(parts[0])))
    fitted = fit_presence(seen)
    print(f"presence: {list(fitted)}  ({(~seen.moved).sum()} people, {seen.moved.sum()} moved poses)")
    count = int((seen.known & ~seen.moved[:, None]).sum())
    print(f"{'presence':<24}{'error, people':>15}{'error, all':>12}{'moved poses: mean, 90 % below':>36}")
    for name, coefficients in (("none", ()), ("stored", weights.calibration.presence), ("fitted", fitted)):
        confidence, similarity = confidences(seen, weights, coefficients)
        moved = confidence[count:]
        errors = calibration_error(confidence[:count], similarity[:count]), calibration_error(confidence, similarity)
        print(f"{name:<24}{errors[0]:>15.3f}{errors[1]:>12.3f}{moved.mean():>28.2f}{np.quantile(moved, 0.9):>8.2f}")


if __name__ == "__main__":
    main()
