"""``posefix calibrate``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from posefix.cli.options import check_inputs, check_output, report_errors, say

if TYPE_CHECKING:
    from posefix.io.coco import Annotations, Results
    from posefix.weights.calibration import Calibration
    from posefix.weights.weights import Weights


@click.command(short_help="Measure how the output of trained weights is read.")
@click.argument("weights", type=click.Path(file_okay=False))
@click.argument("annotations", type=click.Path(dir_okay=False))
@click.argument("results", type=click.Path(dir_okay=False), nargs=-1, required=True)
@click.option("--images", type=click.Path(file_okay=False), required=True, help="Folder of the images.")
@click.option(
    "--policy",
    type=click.Choice(["safe", "always"]),
    default="safe",
    show_default=True,
    help="safe leaves a keypoint where it is unless the image clearly contradicts it.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1),
    help="How much better another place must be expected to be, in keypoint similarity, before a keypoint moves; "
    "default fitted.",
)
@click.option(
    "--prior-weight",
    type=click.FloatRange(min=0),
    help="Weight of the pose prior for a usual estimator; default as it is.",
)
@click.option(
    "--reference-outlier-rate",
    type=click.FloatRange(0, 1),
    help="Share of outliers of such an estimator, as this command prints it; default as it is. Without it the "
    "weights measure no estimator's reliability.",
)
@report_errors
def calibrate(
    weights: str,
    annotations: str,
    results: tuple[str, ...],
    images: str,
    policy: str,
    margin: float | None,
    prior_weight: float | None,
    reference_outlier_rate: float | None,
) -> None:
    """Measure how the output of trained weights is read, and write it into their config.json.

    Needs labelled people that were not trained on, and estimators' results for them. Temperatures are fitted, so that
    the confidence says how close a keypoint is; the share of outliers of every results file is printed. Where the
    weights have an image model, its sharpness, its offset and the weight of the own network are fitted too; where they
    have a reference outlier rate, so is the rule by which an estimator's weight falls with its outliers. The margin is
    the largest that keeps 95 % of what the best one gains: the smaller, the more keypoints move, right or wrong.

    \b
    Examples:
      posefix calibrate runs/mine/weights val.json estimator.json --images val/
      posefix calibrate runs/mine/weights val.json a.json b.json --images val/ --reference-outlier-rate 0.01
      posefix calibrate stronger/ val.json a.json b.json --images val/
    """
    from posefix.io.coco import read_annotations, read_results
    from posefix.weights.weights import load_weights, save_weights

    check_inputs(weights, annotations, *results, images)
    check_output(weights, folder=True)
    loaded = load_weights(weights)
    truth = read_annotations(annotations, loaded.skeleton)
    files = [read_results(path) for path in results]
    if prior_weight is not None:
        loaded = replace(loaded, calibration=replace(loaded.calibration, prior_weight=prior_weight))
    if loaded.image_model is not None:
        loaded = _mix(loaded, truth, files, images)
    chosen = loaded.calibration
    if reference_outlier_rate is not None:
        chosen = replace(chosen, reference_outlier_rate=reference_outlier_rate)
    plain = replace(loaded, calibration=replace(chosen, policy="always", temperature=(), margin=()))
    _print_outliers(plain, truth, files, images)
    plain = replace(plain, calibration=_rule(plain, truth, files, images))
    temperature, fitted = _fit(plain, truth, files, images)
    say(f"margin: {fitted:g}" + ("" if margin is None else f", {margin:g} given"))
    margins = (fitted if margin is None else margin,) * len(loaded.skeleton)
    calibration = replace(plain.calibration, policy=policy, temperature=temperature, margin=margins)
    save_weights(weights, replace(loaded, calibration=calibration), half=True)
    say(f"{weights} written")


def _mix(weights: Weights, truth: Annotations, files: list[Results], images: str) -> Weights:
    """The weights with the fitted mix of image model and own network, and the reference rate that goes with it."""
    from posefix.training.fusion import fit_fusion

    assert weights.image_model is not None
    before, found = weights.image_model.config, fit_fusion(weights, truth, images, files)
    say(
        f"sharpness {before.sharpness:g} → {found.sharpness:g}, own weight {before.own_weight:g} → "
        f"{found.own_weight:g}: mean keypoint similarity {found.similarity[0]:.4f} → {found.similarity[1]:.4f}"
    )
    if found.offset != before.offset:
        say("offset ({:g}, {:g}) → ({:g}, {:g}) px of its crop".format(*before.offset, *found.offset))
    config = replace(before, sharpness=found.sharpness, own_weight=found.own_weight, offset=found.offset)
    calibration = replace(
        weights.calibration,
        reference_outlier_rate=found.reference_outlier_rate,
        labelled_close_share=found.labelled_close_share,
    )
    return replace(weights, image_model=replace(weights.image_model, config=config), calibration=calibration)


def _rule(weights: Weights, truth: Annotations, files: list[Results], images: str) -> Calibration:
    """The calibration with the fitted rule for an estimator's weight."""
    from posefix.training.reliability import fit_reliability

    found = fit_reliability(weights, truth, images, files)
    for name in ("outlier_exponent", "independent_close_share"):
        before, after = getattr(weights.calibration, name), getattr(found, name)
        if before != after:
            say(f"{name}: {before:g} → {after:.3g}")
    return found


def _print_outliers(weights: Weights, truth: Annotations, files: list[Results], images: str) -> None:
    """The share of outliers in each results file, whatever the reference rate is."""
    from posefix.inference.refiner import Refiner
    from posefix.inference.results import refine_results

    refiner = Refiner(replace(weights, calibration=replace(weights.calibration, reference_outlier_rate=0.5)))
    if not refiner.measures_reliability:
        return
    for file in files:
        report = refine_results(refiner, file.entries, images, annotations=truth)[1]
        share = report.outliers / max(report.confident, 1)
        say(f"{file.source}: outliers {share:.4f} ({report.outliers} of {report.confident} keypoints)")


def _fit(weights: Weights, truth: Annotations, files: list[Results], images: str) -> tuple[tuple[float, ...], float]:
    """Temperatures and margin, and what the temperatures do to the expected calibration error."""
    from posefix.training.calibration import calibration_error, fit_margin, fit_temperature, observe, predict

    skeleton, codec = weights.skeleton, weights.config.codec
    seen = observe(weights, truth, images, files)
    temperature = fit_temperature(seen, codec, skeleton)
    for name, used in (("before", (1.0,) * len(skeleton)), ("after", temperature)):
        confidence, similarity = predict(seen, codec, skeleton.sigmas, used)
        error = calibration_error(confidence[seen.ground_truth], similarity[seen.ground_truth])
        say(f"expected calibration error {name}: {error:.4f}")
    parts = dict(zip(skeleton.parts, temperature, strict=True))
    say("temperatures: " + ", ".join(f"{part} {value:.2f}" for part, value in parts.items()))
    return temperature, fit_margin(seen, codec, skeleton.sigmas, temperature)
