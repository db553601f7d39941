"""``python -m posefix``, for torchrun."""

from posefix.cli import main

main(prog_name="posefix")
