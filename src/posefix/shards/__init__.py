"""A large input refined in parts, by any number of processes, each of which may be killed at any moment."""
