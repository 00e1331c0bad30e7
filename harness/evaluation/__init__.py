"""Evaluation under a fixed protocol: AutoAttack's own attacks, run by this package's driver."""
