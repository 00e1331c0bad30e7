"""Evaluation by a fixed protocol: the attacks are the maintainers' own, the driver is ours."""
