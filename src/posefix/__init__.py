"""Better keypoints from any 2D human pose estimator."""

__version__ = "0.1.0"
