"""How the attacked copy of a network is run faster with the same verdicts."""
