"""Keypoint sets, poses, object keypoint similarity and heatmaps."""
