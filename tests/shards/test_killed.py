"""Killed at any moment and resumed: at the end the same bytes as a run that nothing interrupted."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest

from large_runs import command, contents, write_input

pytest.importorskip("pyarrow", reason="runs in parts need the extra posefix[parquet]")

pytestmark = pytest.mark.slow  # processes of their own

#: At least.
KILLS = 20
ARGUMENTS = ("--part-size", "6", "--resume")


def work(arguments: list[str]) -> None:
    """The command, in a process of its own."""
    import torch

    from posefix.cli.main import main

    torch.set_num_threads(1)
    main.main(arguments, standalone_mode=False)


def start(context: BaseContext, arguments: list[str]) -> multiprocessing.process.BaseProcess:
    process = context.Process(target=work, args=(arguments,))  # type: ignore[attr-defined]
    process.start()
    return process


@pytest.fixture
def context() -> BaseContext:
    # A server that has imported everything makes each process in milliseconds, so kills fall into the work.
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["posefix.cli.main", "pyarrow.parquet"])
    return found


@pytest.mark.skipif(not hasattr(multiprocessing.Process, "kill"), reason="needs kill -9")
def test_kills_at_random_moments(tmp_path: Path, context: BaseContext) -> None:
    write_input(tmp_path, images=60)
    whole = start(context, command(tmp_path, tmp_path / "whole", *ARGUMENTS))
    whole.join(300)
    assert whole.exitcode == 0
    expected = contents(tmp_path / "whole")
    assert len(expected) == 32  # thirty parts, the input as a table, what the run is
    rng = np.random.default_rng(0)
    kills, seen, longest, rounds = 0, set[int](), 0.0, 0
    while kills < KILLS:
        rounds += 1
        out = tmp_path / f"run{rounds}"
        while True:
            process = start(context, command(tmp_path, out, *ARGUMENTS))
            begun = time.monotonic()
            # From at once to a little longer than the work takes; the first time tells how long that is.
            process.join(float(rng.uniform(0, longest)) if longest else 300)
            if process.exitcode is not None:
                assert process.exitcode == 0
                longest = longest or 0.5 * (time.monotonic() - begun)
                break
            process.kill()
            process.join()
            kills += 1
            seen.add(len(list(out.glob("part-*"))) if out.is_dir() else -1)
        assert contents(out) == expected
        assert rounds < 20
    assert len(seen) >= 5, "the kills fell into different stages of the work"


def test_two_shards_at_once(tmp_path: Path, context: BaseContext) -> None:
    write_input(tmp_path, images=24)
    run = command(tmp_path, tmp_path / "run", *ARGUMENTS)
    both = [start(context, [*run, "--shard", f"{i}/2"]) for i in (1, 2)]
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    whole = start(context, command(tmp_path, tmp_path / "whole", *ARGUMENTS))
    whole.join(300)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
