"""Further datasets, one per file."""
