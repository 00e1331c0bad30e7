"""Attack and judge a chunk of images."""
