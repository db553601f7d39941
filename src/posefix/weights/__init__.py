"""Weights: files, the hub, model cards, conversion."""
