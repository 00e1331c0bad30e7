"""External networks: find their weights in a file, and probe their behaviour."""
