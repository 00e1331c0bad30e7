"""Adversarial-training methods, one a file."""
