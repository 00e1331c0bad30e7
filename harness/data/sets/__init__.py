"""Further datasets, one a file."""
