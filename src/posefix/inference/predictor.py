"""From people to predictions: reliability measured where it is asked for, then decoding with the prior's weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posefix.inference.crops import Prediction
from posefix.inference.options import Options
from posefix.inference.reliability import Reliability, can_measure_reliability, measured_prior_weight
from posefix.inference.runner import Piece, Runner
from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.weights.calibration import Calibration


class Predictor:
    """A runner with what is needed to read its output.

    ``start`` begins with some people and returns at once where the runner has streams of its own; ``finish`` waits.
    """

    def __init__(self, runner: Runner, config: ModelConfig, calibration: Calibration) -> None:
        self.runner = runner
        self._config, self._calibration = config, calibration
        self.measures_reliability = can_measure_reliability(config, calibration)

    def start(self, inputs: NetworkInput, options: Options) -> list[Piece]:
        """Begin with any number of people."""
        count = options.prior_weight is None and self.measures_reliability
        return self.runner.start(inputs, batch_size=options.batch_size, flip_test=options.flip_test, count=count)

    def reliability(self, pieces: Sequence[Piece]) -> Reliability:
        """Reliability of the estimator whose people were started, without a given ``prior_weight``."""
        counts = self.runner.outliers(pieces).sum(-1)
        if not counts[0]:
            return Reliability()
        weight = measured_prior_weight(counts, self._calibration.reference_outlier_rate)
        return Reliability(float(weight), int(counts[0]), int(counts[1]))

    def finish(self, pieces: Sequence[Piece], options: Options, image_index: npt.NDArray[np.int64]) -> Prediction:
        """Points and confidence in crop pixels.

        Args:
            pieces: from ``start``; B people.
            options: decoder and prior weight; a weight of None is measured on the people of each image.
            image_index: (B,) which image each person is in.
        """
        weight = np.full(len(image_index), 1.0 if options.prior_weight is None else options.prior_weight)
        if options.prior_weight is None and self.measures_reliability:
            _, place = np.unique(image_index, return_inverse=True)
            counts = np.stack([np.bincount(place, count)[place] for count in self.runner.outliers(pieces)])
            weight = measured_prior_weight(counts, self._calibration.reference_outlier_rate)
        decoder = options.decoder or self._calibration.decoder
        return self.runner.decode(pieces, weight, decoder, self._config.num_keypoints)
