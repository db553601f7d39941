"""Golden numbers of the package's own kind of network, its weights made by a rule: a changed layer, offset or order of
channels shows here. The paper's networks have theirs in ``test_parity.py``."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

from posefix.network.config import ModelConfig
from posefix.network.inputs import NetworkInput
from posefix.network.model import RefinementNetwork


def by_rule(name: str, like: Tensor) -> Tensor:
    """The value of a parameter or buffer, from its name alone."""
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(like.shape))
    if name.endswith("running_var"):
        n = 1 + 0.5 * np.tanh(n)
    elif like.ndim > 1:
        n *= np.sqrt(1.5 / np.prod(like.shape[1:]))
    elif name.endswith("weight"):  # of a batch norm
        n = 1 + 0.1 * n
    else:
        n *= 0.1
    return torch.from_numpy(np.asarray(n)).to(like.dtype)


@pytest.fixture(scope="module")
def network() -> RefinementNetwork:
    made = RefinementNetwork(ModelConfig(input_hw=(96, 64), width=0.5, uses_scores=True)).eval()
    state = made.state_dict()
    made.load_state_dict({k: by_rule(k, v) if v.is_floating_point() else v for k, v in state.items()})
    return made


def inputs() -> NetworkInput:
    rng = np.random.default_rng(5)
    crops = torch.from_numpy(rng.integers(0, 256, (2, 96, 64, 3), np.uint8))
    points = torch.from_numpy(rng.uniform(0, 64, (2, 17, 2))).float()
    valid = torch.ones(2, 17, dtype=torch.bool)
    valid[1, 3] = False
    scores = torch.from_numpy(rng.uniform(0.2, 1, (2, 17))).float()
    return NetworkInput(crops, points, valid, torch.full((2, 17), 7.0), scores)


#: (person, keypoint, row, column) → image logit, then log prior.
GOLDEN = {
    (0, 0, 3, 4): (5.7883, -6.0007),
    (0, 5, 12, 8): (22.1326, -5.9976),
    (0, 16, 23, 15): (1.1451, -6.0020),
    (1, 3, 10, 2): (-3.8774, -5.9506),
    (1, 9, 0, 0): (-0.4807, -6.0217),
    (1, 14, 20, 11): (-2.5866, -6.0517),
}


@torch.inference_mode()
def test_logits_and_prior(network: RefinementNetwork) -> None:
    given = inputs()
    logits = network.image_logits(given)
    prior = network.log_prior(logits, given)
    assert prior is not None
    found = {at: (float(logits[at]), float(prior[at])) for at in GOLDEN}
    for at, expected in GOLDEN.items():
        assert found[at] == pytest.approx(expected, rel=2e-4, abs=1e-3), at
