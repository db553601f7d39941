"""Tracks of people in videos: image and motion together."""
