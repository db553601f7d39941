"""The network in torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from posefix.exceptions import InputError
from posefix.inference import decoding
from posefix.inference.crops import Prediction
from posefix.inference.runner import View
from posefix.messages import shown
from posefix.network.devices import autocast_dtype, pick_device
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork
from posefix.network.rounding import rounded_filters
from posefix.weights.weights import Weights, fold_batch_norm

if TYPE_CHECKING:
    from posefix.inference.runner import Floats

logger = logging.getLogger(__name__)

_CHOICES = {"auto": "auto", "float32": "off", "bfloat16": "on"}


def build_network(weights: Weights, device: torch.device, precision: str = "auto") -> RefinementNetwork:
    """The network for inference: in evaluation mode, on its device, in the precision it computes in."""
    network = weights.build()
    fold_batch_norm(network)
    # Small differences of logarithms decide in the prior: its parameters are never rounded.
    prior, network.prior = network.prior, None
    dtype = autocast_dtype(device, _CHOICES[precision]) or torch.float32
    if dtype == torch.bfloat16:
        _round_filters(network)
    network = network.to(device, dtype)
    network.prior = None if prior is None else prior.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _round_filters(network: nn.Module) -> None:
    """Filters of single channels to what bfloat16 holds, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.weight.data = torch.from_numpy(rounded_filters(layer.weight.detach().float().numpy()))


class TorchModel:
    """The network and its decoding as torch runs them; see ``runner.Model``."""

    backend = "torch"

    def __init__(self, weights: Weights, device: str | torch.device = "auto", precision: str = "auto") -> None:
        if precision not in _CHOICES:
            raise InputError(f"precision: expected 'auto', 'float32' or 'bfloat16', got {shown(precision)}")
        self.device = pick_device(device)
        self.network = build_network(weights, self.device, precision)
        self.precision = str(next(self.network.parameters()).dtype).removeprefix("torch.")
        # oneDNN's bfloat16 layers for CPUs with AMX can give NaN for maps that are one column wide.
        self._may_fail = self.device.type == "cpu" and self.precision == "bfloat16"
        self._weights, self._lock = weights, threading.Lock()
        self._exact: RefinementNetwork | None = None
        self._calibration = weights.calibration
        self._flip_indices = torch.from_numpy(weights.skeleton.flip_indices).to(self.device)

    @contextmanager
    def starting_threads(self) -> Iterator[None]:
        """While threads start: the process's number of threads stays, though each of them sets its own."""
        number = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(number)

    def enter_thread(self) -> None:
        """Compute on one core in this thread."""
        torch.get_num_threads()  # sets a new thread up from the process's number; ours must come after it
        torch.set_num_threads(1)

    @torch.inference_mode()
    def forward(self, inputs: NetworkInput) -> View:
        """Through the network; the maps stay on the device."""
        given = inputs.to(self.device)
        with torch.autocast(self.device.type, enabled=False):  # the precision is this model's own choice
            image_logits, peaks = self.network.image_logits_and_peaks(given)
            if self._may_fail and not bool(torch.isfinite(image_logits).all()):
                image_logits, peaks = self._in_float32().image_logits_and_peaks(given)
        return View(image_logits, peaks, inputs.without_crops())

    @torch.inference_mode()
    def count(self, view: View) -> torch.Tensor:
        """Outliers; they stay on the device too, for a GPU shall not be waited for before it has its next people."""
        return decoding.count_outliers(view.image_logits, view.inputs.to(self.device), self.network.config.codec)

    def _in_float32(self) -> RefinementNetwork:
        """The same network in the precision that does not fail; made when it is needed first."""
        with self._lock:
            if self._exact is None:
                logger.warning("bfloat16 gave numbers that are not finite on this CPU; float32 is taken where it does")
                self._exact = build_network(self._weights, self.device, "float32")
            return self._exact

    @torch.inference_mode()
    def decode(self, views: Sequence[View], prior_weight: Floats, decoder: str) -> Prediction:
        """Points and confidence."""
        pairs = [(view.image_logits, view.inputs.to(self.device)) for view in views]
        weight = torch.as_tensor(prior_weight, dtype=torch.float32, device=self.device)
        found = decoding.decode(
            self.network, self._calibration, self._flip_indices, decoder, pairs, views[0].peaks, weight
        )
        return Prediction(*(part.cpu().double().numpy() for part in found))
