"""From a trained network to weights: validation on real estimators' results, calibration, the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from posefix.evaluation.coco_ap import evaluate
from posefix.inference.refiner import Refiner
from posefix.inference.results import refine_results
from posefix.io.coco import read_annotations, read_results
from posefix.network.model import RefinementNetwork
from posefix.training.config import TrainingConfig
from posefix.weights.calibration import PAPER_CALIBRATION, Calibration
from posefix.weights.weights import Weights


def finish(network: RefinementNetwork, config: TrainingConfig) -> Weights:
    """Weights of a trained network with an uncalibrated reading and the recipe on record."""
    calibration = Calibration(policy="always") if config.model.pose_prior else PAPER_CALIBRATION
    recipe = config.to_dict()
    recipe.pop("about")
    for key in ("sets", "validation", "start", "out"):
        recipe[key] = _file_names(recipe[key])
    return Weights(
        config.model,
        config.skeleton,
        calibration,
        network.state_dict(),
        about={**{k: v for k, v in asdict(config.about).items() if v}, "recipe": recipe},
        origin=str(config.out),
    )


def _file_names(value: object) -> object:
    """Paths without their folders: the record is public."""
    if isinstance(value, dict):
        return {k: _file_names(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_file_names(v) for v in value]
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and "/" in value else value


def make_validation(config: TrainingConfig) -> Callable[[RefinementNetwork], dict[str, float]] | None:
    """A function from a network to the AP change of every validation file; None where there are none."""
    settings = config.validation
    if not settings.results:
        return None
    annotations = read_annotations(settings.annotations, config.skeleton)
    files = {Path(p).stem: read_results(p).entries for p in settings.results}
    before = {name: evaluate(annotations, entries, config.skeleton).ap for name, entries in files.items()}

    def validate(network: RefinementNetwork) -> dict[str, float]:
        refiner = Refiner(replace(finish(network, config), origin="training"), device="auto")
        figures = {}
        for name, entries in files.items():
            refined, _ = refine_results(refiner, entries, settings.images, annotations=annotations)
            after = evaluate(annotations, refined, config.skeleton).ap
            figures[f"{name}_ap"], figures[f"{name}_change"] = round(after, 4), round(after - before[name], 4)
        return figures

    return validate
