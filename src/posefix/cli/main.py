"""The command line: ``posefix COMMAND``."""

from __future__ import annotations

import click

import posefix
from posefix.cli.calibrate import calibrate
from posefix.cli.convert import convert
from posefix.cli.convert_results import convert_results
from posefix.cli.demo import demo
from posefix.cli.diagnose import diagnose
from posefix.cli.evaluate import evaluate
from posefix.cli.export import export
from posefix.cli.merge_results import merge_results
from posefix.cli.refine import refine
from posefix.cli.refine_video import refine_video
from posefix.cli.train import train
from posefix.cli.weights import weights


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(posefix.__version__, prog_name="posefix")
def main() -> None:
    """Better keypoints from any 2D human pose estimator.

    \b
    Examples:
      posefix demo
      posefix refine results.json --images val2017/ --out refined.json
      posefix evaluate val.json results.json refined.json

    \b
    Completion, in your shell's start-up file:
      eval "$(_POSEFIX_COMPLETE=bash_source posefix)"           (bash)
      eval "$(_POSEFIX_COMPLETE=zsh_source posefix)"            (zsh)
      _POSEFIX_COMPLETE=fish_source posefix | source            (fish)
    """


for _command in (
    calibrate,
    convert,
    convert_results,
    demo,
    diagnose,
    evaluate,
    export,
    merge_results,
    refine,
    refine_video,
    train,
    weights,
):
    main.add_command(_command)
