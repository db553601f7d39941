"""Some hundred damaged inputs of every door; ``make fuzz`` tries a million."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from fuzzing import SLOW, Doors, failures


@pytest.mark.parametrize("name", Doors(Path()).names())
def test_every_answer_is_a_result_or_one_sentence(name: str, tmp_path: Path) -> None:
    found = list(failures(Doors(tmp_path), name, 0, 200 // min(SLOW.get(name, 1), 4)))
    shown = [f"seed {number}:\n{''.join(traceback.format_exception(error))}" for number, error in found[:3]]
    assert found == [], "\n".join(shown)


def test_the_net_catches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.check_entries", lambda entries: 1 / 0)
    assert len(list(failures(Doors(tmp_path), "refined_file", 0, 5))) == 5
