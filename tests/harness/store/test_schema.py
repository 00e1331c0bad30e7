import dataclasses

import duckdb

from harness.store.schema import (
    EPOCHS,
    TABLES,
    Column,
    Table,
    arrow_schema,
    migrate,
    newest_version,
    version_of,
)

# What a later release might do: one more column, one more table.
LATER = {
    **TABLES,
    "epochs": dataclasses.replace(
        EPOCHS, columns=(*EPOCHS.columns, Column("grad_norm", "DOUBLE", "its 'size'", since=3))
    ),
    "notes": Table("notes", "a remark", (Column("text", "VARCHAR", "its text", since=3),)),
}


def columns(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, ...]]:
    return connection.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE NOT internal ORDER BY table_name, column_index"
    ).fetchall()


def test_a_new_database_has_every_table_and_every_column_explained() -> None:
    with duckdb.connect(":memory:") as connection:
        migrate(connection)
        found = columns(connection)
        tables = connection.execute("SELECT table_name, comment FROM duckdb_tables()").fetchall()
    assert dict(tables) == {name: table.doc for name, table in TABLES.items()}
    for name, table in TABLES.items():
        named = [(column, doc) for of, column, _, doc in found if of == name]
        assert named == [(column.name, column.doc) for column in table.columns]


def test_the_arrow_types_are_the_sql_types():
    with duckdb.connect(":memory:") as connection:
        migrate(connection)
        for name, table in TABLES.items():
            stored = connection.sql(f"SELECT * FROM {name}").to_arrow_table().schema
            assert arrow_schema(table).types == stored.types
            assert arrow_schema(table).names == stored.names


def test_migrating_forward_keeps_rows_and_gives_what_a_new_database_has():
    assert newest_version() == 2
    with duckdb.connect(":memory:") as old, duckdb.connect(":memory:") as new:
        migrate(old)
        old.execute("INSERT INTO epochs (run_id, epoch, loss) VALUES ('r', 1, 0.5)")
        assert version_of(old) == 2
        migrate(old, LATER.values())
        migrate(new, LATER.values())
        version = "SELECT value FROM meta WHERE name = 'schema_version'"
        assert old.execute(version).fetchone() == new.execute(version).fetchone() == ("3",)
        assert columns(old) == columns(new)
        assert old.execute("SELECT run_id, loss, grad_norm FROM epochs").fetchall() == [
            ("r", 0.5, None)
        ]
