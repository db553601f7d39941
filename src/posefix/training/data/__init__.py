"""Training samples."""
