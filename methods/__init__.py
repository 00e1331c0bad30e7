"""Methods, one a file: pure losses, parameters, a card, a training task, recipes."""
