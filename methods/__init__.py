"""Training methods, one per file: losses, parameters, a card, a training task and recipes."""
