"""Data sets beside COCO: their files in and out, and their own measures."""
