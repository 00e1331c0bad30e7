"""One page a file; ``main`` runs the one that the address names."""
