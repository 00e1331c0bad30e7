"""Run the attacked copy of a network faster without changing verdicts."""
