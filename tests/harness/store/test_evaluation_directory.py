from pathlib import Path

import pyarrow as pa
import pytest

from harness.errors import UserError
from harness.store.rundir import EvaluationDirectory, RunDirectory
from harness.store.verdicts import VERDICT_SCHEMA, read_verdicts, write_verdicts

RECORD = {"protocol": {"n": 10, "attacks": ["apgd-ce", "apgd-t"]}, "metrics": {}}


@pytest.fixture
def evaluation(tmp_path: Path) -> EvaluationDirectory:
    return RunDirectory.create(tmp_path, "m-1").evaluation("e-1")


def test_finished_chunks_are_the_complete_ones_in_order(evaluation, verdict_table):
    assert evaluation.finished_chunks() == []
    for number in (2, 0, 10):
        write_verdicts(verdict_table(10), evaluation.chunk_path(number))
    (evaluation.chunks_path / ".00003.parquet.1-ab.tmp").write_bytes(b"half a chunk")
    (evaluation.chunks_path / "00002.adversarial.npy").write_bytes(b"images")
    assert evaluation.finished_chunks() == [0, 2, 10]


def test_evaluations_are_those_with_a_record(evaluation):
    run = RunDirectory(evaluation.path.parents[3], "m-1")
    assert run.evaluations() == []
    evaluation.update(status="started")
    assert [found.evaluation_id for found in run.evaluations()] == ["e-1"]
    assert run.evaluations()[0].record["run_id"] == "m-1"


def test_columns_are_put_in_order_and_narrowed(tmp_path, verdict_table):
    path = tmp_path / "v.parquet"
    whole = verdict_table(10)
    label = whole.schema.get_field_index("label")
    wide = whole.set_column(label, "label", whole["label"].cast(pa.int64()))
    write_verdicts(wide.select(list(reversed(whole.schema.names))), path)
    assert read_verdicts(path, RECORD).schema.equals(VERDICT_SCHEMA)
    assert read_verdicts(path, RECORD).equals(whole)


def test_a_missing_column_is_the_writers_mistake(tmp_path, verdict_table):
    with pytest.raises(KeyError, match="margin"):
        write_verdicts(verdict_table(10).drop_columns("margin"), tmp_path / "v.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_verdict_file_is_named(tmp_path, verdict_table):
    path = tmp_path / "v.parquet"
    write_verdicts(verdict_table(10), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"v\.parquet cannot be read"):
        read_verdicts(path, RECORD)
    with pytest.raises(UserError, match=r"none\.parquet cannot be read"):
        read_verdicts(tmp_path / "none.parquet", RECORD)
