"""Checkpoints on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posefix.exceptions import TrainingError
from posefix.io import atomic
from posefix.training import trainer
from posefix.training.checkpoint import load_checkpoint, save_checkpoint


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, path = nn.Linear(3, 2), tmp_path / "checkpoint.safetensors"
    optimiser = torch.optim.Adam(network.parameters())
    save_checkpoint(path, network, network, optimiser, {"step": 1})
    first = path.read_bytes()
    nn.init.ones_(network.weight)
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(TrainingError, match=r"step 2: .*No space left.* \(.*\) is whole: .*--resume") as caught:
        save_checkpoint(path, network, network, optimiser, {"step": 2})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert load_checkpoint(path, network, network, optimiser) == {"step": 1}
    assert not (network.weight == 1).all()
    with pytest.raises(TrainingError, match="none before it"):
        save_checkpoint(tmp_path / "other.safetensors", network, network, optimiser, {"step": 1})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(TrainingError, match=r"/dev/full: cannot be written: No space left.*--resume"):
        trainer._append(Path("/dev/full"), {"step": 1})
