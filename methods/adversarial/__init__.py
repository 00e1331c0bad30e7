"""Adversarial-training methods, one per file."""
