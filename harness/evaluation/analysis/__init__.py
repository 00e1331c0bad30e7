"""What stored verdicts say: statistics, comparisons, curves and flags."""
