"""Experiments: from a configuration to a stored, evaluated run."""
