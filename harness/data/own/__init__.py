"""Users' own datasets."""
