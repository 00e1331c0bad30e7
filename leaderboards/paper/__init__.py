"""The tables of the paper, one file each, as declarations."""

from leaderboards.paper import (
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
)
from leaderboards.paper._common import SUBJECT
from leaderboards.spec import TableSpec

__all__ = ["MODULES", "SUBJECT", "TABLES"]

MODULES = (table1, table2, table3, table4, table5, table6, table7, table8, table9)
TABLES: dict[int, TableSpec] = {module.TABLE.number: module.TABLE for module in MODULES}
