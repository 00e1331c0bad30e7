"""One chunk of images attacked and judged."""
