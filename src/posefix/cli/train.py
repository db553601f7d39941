"""``posefix train``."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path

import click

from posefix.cli.options import check_output, device_option, report_errors, say
from posefix.exceptions import TrainingError

#: Errors in the other processes when one of the group dies.
_LOST = re.compile(r"closed by peer|reset by peer|broken pipe|timed out|remote process|NCCL", re.IGNORECASE)
_ENDED = "another process of this training has ended; continue with --resume"


def _stopped(number: int, frame: object) -> None:
    """torchrun tells the others to stop when one dies."""
    raise TrainingError(_ENDED)


@click.command()
@click.argument("config", type=click.Path(dir_okay=False), required=False)
@click.option(
    "--example",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write a small project that trains in a minute (drawn images, five keypoints, configuration) and stop.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the configuration's 'out' folder.")
@device_option
@report_errors
def train(config: str | None, example: str | None, resume: bool, device: str) -> None:
    """Train a refiner from a YAML configuration.

    Writes checkpoints, log.jsonl and at the end a weights folder that Refiner.from_pretrained(FOLDER) loads.
    Several GPUs: torchrun --nproc-per-node=4 -m posefix train CONFIG.

    \b
    Examples:
      posefix train --example kites/
      posefix train kites/kite.yaml
      posefix train kites/kite.yaml --resume
    """
    if example:
        if config:
            raise click.UsageError("--example writes a configuration, so give none")
        from posefix.training.example import write_example

        check_output(example, folder=True)
        written = write_example(example)
        readme = Path(example) / "README.md"
        say(f"{example} written. Next:\n  posefix train {written}\nThe other steps are in {readme}.")
        return
    if not config:
        raise click.UsageError("Missing argument 'CONFIG'; a project to start from: posefix train --example DIR")
    from posefix.training.config import read_config
    from posefix.training.trainer import train as run
    from posefix.training.validation import finish, make_validation
    from posefix.weights.weights import save_weights

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read_config(config)
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if several:
        signal.signal(signal.SIGTERM, _stopped)
    try:
        network = run(settings, resume=resume, device=device, validate=make_validation(settings))
    except RuntimeError as error:
        if not several or not _LOST.search(str(error)):
            raise
        # What gloo and NCCL say is about sockets; what happened is that one of the others died.
        raise TrainingError(f"{_ENDED} ({str(error).splitlines()[0]})") from error
    if int(os.environ.get("RANK", "0")) == 0:
        folder = Path(settings.out) / "weights"
        save_weights(folder, finish(network, settings), half=True)
        say(f"{folder} written")
