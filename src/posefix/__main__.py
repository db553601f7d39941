"""``python -m posefix``, for torchrun."""

from posefix.cli.main import main

main(prog_name="posefix")
