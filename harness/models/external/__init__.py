"""External networks: finding their weights in a file, and probing what they do."""
