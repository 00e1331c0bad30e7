"""The reference paper's tables, with printed numbers and ours side by side."""
