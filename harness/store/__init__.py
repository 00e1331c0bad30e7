"""Run directories, which are the durable log, and the DuckDB database made from them."""
