"""Analysis of stored verdicts: statistics, comparisons, curves and flags."""
