"""From a configuration to a stored, evaluated run."""
