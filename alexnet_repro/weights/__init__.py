"""Trained networks of other programs: their files are read, operation by operation, and cut into layers and columns."""
