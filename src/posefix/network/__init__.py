"""The networks, their configuration and their weights."""
