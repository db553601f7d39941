"""From an image and its poses to better poses."""
