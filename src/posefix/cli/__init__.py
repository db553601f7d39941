"""The command line: ``posefix``."""
