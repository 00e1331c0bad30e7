"""The reference paper's tables, with printed numbers and ours side by side."""

from leaderboards.build import table, tables

__all__ = ["table", "tables"]
