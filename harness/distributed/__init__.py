"""Training in several processes, and the signals that stop a command."""
