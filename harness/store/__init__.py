"""Run directories, which are the durable log, and the DuckDB database built from them."""
