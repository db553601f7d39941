"""Poses drawn into images."""
