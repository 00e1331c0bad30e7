"""Two results folders become one: nothing lost, nothing doubled, contradictions named."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from divergence_bench.cli.db import db
from harness.errors import UserError
from harness.store import exchange
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from harness.store.sharing import merge
from harness.store.verdicts import correct_after, verdicts_digest, write_verdicts
from tests.harness.store.conftest import (
    accuracy,
    assert_same,
    contents,
    summary,
    verdict_table,
)

TABLES = ("runs", "evaluations", "metrics", "epochs", "verdicts")


def rows_of(results: Path) -> dict[str, pd.DataFrame]:
    return contents(Database(results), *TABLES)


def test_merging_two_folders_gives_the_same_in_either_direction(lab):
    ours, theirs = lab("ours", "a", "b"), lab("theirs", "b", "c")
    copy = ours.with_name("copy")
    shutil.copytree(ours, copy)
    assert summary(merge(ours, theirs)) == (["c"], [], ["b"], [], [])
    assert summary(merge(theirs, copy)) == (["a"], [], ["b"], [], [])
    once = rows_of(ours)
    assert once["runs"]["run_id"].tolist() == ["a", "b", "c"]
    assert len(once["verdicts"]) == 60
    assert_same(once, rows_of(theirs))
    assert summary(merge(ours, theirs)) == ([], [], ["a", "b", "c"], [], [])
    assert_same(once, rows_of(ours))
    Database(ours).rebuild()
    assert_same(once, rows_of(ours))


def test_the_more_complete_copy_of_a_run_wins_on_either_side(lab, add_evaluation):
    less, more = lab("less", "a"), lab("more", "a")
    run = RunDirectory(less, "a")
    run.model_path.unlink()
    shutil.rmtree(run.evaluations_path)
    run.truncate_epochs(1)
    run.update(status="started", metrics=None)
    add_evaluation(RunDirectory(more, "a"), "e2", n=10)
    Database(more).record(RunDirectory(more, "a"))
    expected = rows_of(more)
    assert summary(merge(more, less)) == ([], [], ["a"], [], [])
    assert_same(expected, rows_of(more))
    assert summary(merge(less, more)) == ([], ["a"], [], [], [])
    assert_same(expected, rows_of(less))
    assert run.model_path.read_bytes() == RunDirectory(more, "a").model_path.read_bytes()


def test_each_side_may_have_an_evaluation_that_the_other_lacks(lab, add_evaluation):
    ours, theirs = lab("ours", "a"), lab("theirs", "a")
    add_evaluation(RunDirectory(ours, "a"), "e2", n=10)
    add_evaluation(RunDirectory(theirs, "a"), "e3", n=15)
    assert summary(merge(ours, theirs)) == ([], ["a"], [], [], [])
    counts = Database(ours).query(
        "SELECT evaluation_id, count(*) AS n FROM verdicts GROUP BY ALL ORDER BY ALL"
    )
    assert counts.values.tolist() == [["e1", 20], ["e2", 10], ["e3", 15]]


def test_of_an_unfinished_evaluation_the_side_with_more_finished_chunks_is_kept(lab):
    sides = {"less": 1, "more": 2}
    for name, count in sides.items():
        evaluation = RunDirectory(lab(name, "a"), "a").evaluation("e2")
        evaluation.update(side=name)
        evaluation.chunks_path.mkdir()
        for number in range(count):
            evaluation.chunk_path(number).write_text(f"chunk {number} of {name}")
    less, more = (lab(name) for name in sides)

    def kept(results: Path) -> list[str]:
        evaluation = RunDirectory(results, "a").evaluation("e2")
        texts = [
            evaluation.chunk_path(number).read_text() for number in evaluation.finished_chunks()
        ]
        return [evaluation.record["side"], *texts]

    expected = ["more", "chunk 0 of more", "chunk 1 of more"]
    assert summary(merge(more, less)) == ([], [], ["a"], [], [])
    assert kept(more) == expected
    assert summary(merge(less, more)) == ([], ["a"], [], [], [])
    assert kept(less) == expected
    assert summary(merge(less, more)) == ([], [], ["a"], [], [])


def test_of_equal_evaluations_the_one_with_saved_images_is_kept(lab):
    with_images, without = lab("with", "a"), lab("without", "a")
    for results in (with_images, without):
        evaluation = RunDirectory(results, "a").evaluation("e1")
        evaluation.chunks_path.mkdir()
        evaluation.chunk_path(0).write_text("verdicts")
    saved = RunDirectory(with_images, "a").evaluation("e1")
    saved.update(adversarial={"kept": "uint8"})
    saved.chunk_path(0).with_suffix(".adversarial.npy").write_text("images")
    assert summary(merge(with_images, without)) == ([], [], ["a"], [], [])
    assert saved.saved_images() == 1
    assert summary(merge(without, with_images)) == ([], ["a"], [], [], [])
    merged = RunDirectory(without, "a").evaluation("e1")
    assert merged.saved_images() == 1
    assert merged.record == saved.record
    assert summary(merge(without, with_images)) == ([], [], ["a"], [], [])


def break_one_more(run: RunDirectory) -> None:
    """Another finished answer to the same question."""
    evaluation = run.evaluation("e1")
    verdicts = evaluation.verdicts()
    broken = [*verdicts["broken_by"].to_pylist()[:-1], "square"]
    place = verdicts.schema.get_field_index("broken_by")
    changed = verdicts.set_column(place, "broken_by", pa.array(broken, pa.string()))
    write_verdicts(changed, evaluation.verdicts_path)
    metrics = evaluation.record["metrics"] | {"robust": accuracy(14, 20)}
    evaluation.update(verdicts_digest=verdicts_digest(changed), metrics=metrics)


def other_weights(run: RunDirectory) -> None:
    evaluation = run.evaluation("e1")
    protocol = evaluation.record["protocol"] | {"model_sha256": "9" * 64}
    evaluation.update(protocol=protocol)


@pytest.mark.parametrize("change", [break_one_more, other_weights])
def test_a_contradiction_is_named_and_neither_side_is_lost(change, lab):
    ours, theirs = lab("ours", "a"), lab("theirs", "a", "b")
    change(RunDirectory(theirs, "a"))
    Database(theirs).record(RunDirectory(theirs, "a"))
    mine, other = rows_of(ours), rows_of(theirs)
    merged = merge(ours, theirs)
    assert summary(merged) == (["b"], [], [], ["a"], [])
    (aside,) = merged.conflicts.values()
    for name in ("verdicts", "evaluations"):
        for results, frames in ((ours, mine), (aside, other)):
            found = Database(results).query(f"SELECT * FROM {name} WHERE run_id = 'a' ORDER BY ALL")
            expected = frames[name][frames[name]["run_id"] == "a"].reset_index(drop=True)
            pd.testing.assert_frame_equal(found, expected)
    again = merge(ours, theirs)
    assert summary(again) == ([], [], ["b"], ["a"], [])
    assert again.conflicts == merged.conflicts
    assert Database(ours).rebuild().counts["runs"] == 2


@pytest.mark.parametrize("recorded", ["neither side", "this side", "the other side"])
def test_without_a_recorded_hash_the_weights_themselves_are_compared(recorded, lab):
    """What a run of an earlier release, or one that was not evaluated yet, has recorded."""
    ours, theirs = lab("ours", "a", "b"), lab("theirs", "a", "b")
    for results, side in ((ours, "this side"), (theirs, "the other side")):
        for run_id in ("a", "b"):
            if side != recorded:
                shutil.rmtree(RunDirectory(results, run_id).evaluations_path)
    RunDirectory(theirs, "a").model_path.write_bytes(b"other weights of a")
    merged = merge(ours, theirs)
    assert list(merged.conflicts) == ["a"]
    assert (merged.same, merged.completed) == (
        ([], ["b"]) if recorded == "the other side" else (["b"], [])
    )
    assert RunDirectory(ours, "a").model_path.read_bytes() == b"weights of a"
    kept = RunDirectory(merged.conflicts["a"], "a")
    assert kept.model_path.read_bytes() == b"other weights of a"


def draw(run: RunDirectory, n: int, *, broken: int = 3) -> None:
    """Make its evaluation a sequential one, of the first ``n`` of 40 images in a drawn order.

    Image 4 is one of the first 20.
    """
    evaluation = run.evaluation("e1")
    drawn = verdict_table(40, broken=broken).take([7 * i % 40 for i in range(n)])
    write_verdicts(drawn, evaluation.verdicts_path)
    protocol = evaluation.record["protocol"] | {"order": "random", "population": 40, "n": n}
    correct = correct_after(drawn["broken_by"].to_pylist(), protocol["attacks"])
    metrics = {stage: accuracy(int(right.sum()), n) for stage, right in correct.items()}
    metrics["robust"] = metrics["apgd-t"]
    evaluation.update(protocol=protocol, metrics=metrics, verdicts_digest=verdicts_digest(drawn))
    Database(run.results).record(run)


@pytest.mark.parametrize("longer_is", ["here", "there"])
def test_the_longer_of_two_sequential_evaluations_is_kept(longer_is, lab):
    short, long = lab("short", "a"), lab("long", "a")
    draw(RunDirectory(short, "a"), 20)
    draw(RunDirectory(long, "a"), 40)
    expected = rows_of(long)
    ours, theirs = (long, short) if longer_is == "here" else (short, long)
    completed, same = ([], ["a"]) if longer_is == "here" else (["a"], [])
    assert summary(merge(ours, theirs)) == ([], completed, same, [], [])
    assert summary(merge(ours, theirs)) == ([], [], ["a"], [], [])
    assert len(RunDirectory(ours, "a").evaluation("e1").verdicts()) == 40
    assert_same(expected, rows_of(ours))


@pytest.mark.parametrize("longer_is", ["here", "there"])
def test_sequential_evaluations_that_differ_in_a_shared_image_are_in_conflict(longer_is, lab):
    short, long = lab("short", "a"), lab("long", "a")
    draw(RunDirectory(short, "a"), 20)
    draw(RunDirectory(long, "a"), 40, broken=2)
    ours, theirs = (long, short) if longer_is == "here" else (short, long)
    mine, other = (RunDirectory(each, "a").evaluation("e1").verdicts() for each in (ours, theirs))
    merged = merge(ours, theirs)
    assert summary(merged) == ([], [], [], ["a"], [])
    for results, verdicts in ((ours, mine), (merged.conflicts["a"], other)):
        assert RunDirectory(results, "a").evaluation("e1").verdicts().equals(verdicts)


def test_a_damaged_evaluation_is_left_out_and_named(lab):
    ours, theirs = lab("ours", "a"), lab("theirs", "b", "c", "d")
    path = RunDirectory(theirs, "b").evaluation("e1").verdicts_path
    run = RunDirectory(theirs, "d").evaluation("e1")
    write_verdicts(run.verdicts().slice(0, 19), run.verdicts_path)
    path.write_bytes(path.read_bytes()[:-30])
    merged = merge(ours, theirs)
    assert summary(merged) == (["b", "c", "d"], [], [], [], ["b@e1", "d@e1"])
    assert str(path) in merged.left_out["b@e1"]
    assert "not those that were written" in merged.left_out["d@e1"]
    assert Database(ours).rebuild().unreadable == []
    assert Database(ours).query("SELECT run_id FROM evaluations ORDER BY 1").size == 2


def test_a_run_that_is_being_worked_on_is_left_out(lab):
    ours, theirs = lab("ours"), lab("theirs", "a")
    with RunDirectory(theirs, "a").lock():
        merged = merge(ours, theirs)
    assert "a process is working on run a there" in merged.left_out["a"]
    assert summary(merge(ours, theirs))[0] == ["a"]


def test_what_is_no_results_folder_is_refused(lab, tmp_path):
    ours = lab("ours", "a")
    with pytest.raises(UserError, match="is the results folder itself"):
        merge(ours, ours / "." / "")
    with pytest.raises(UserError, match="holds no folder 'runs'"):
        merge(ours, tmp_path / "none")


def test_an_export_comes_back_as_the_rows_it_was(lab, tmp_path):
    theirs, ours = lab("theirs", "a", "b"), lab("ours", "a")
    counts = exchange.export(theirs, tmp_path / "parquet")
    assert counts["verdicts"] == 40
    written = {path.name: path.read_bytes() for path in (tmp_path / "parquet").iterdir()}
    exchange.export(theirs, tmp_path / "parquet")
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "parquet").iterdir()}
    assert summary(exchange.import_(ours, tmp_path / "parquet")) == (["b"], [], ["a"], [], [])
    assert summary(exchange.import_(ours, tmp_path / "parquet")) == ([], [], ["a", "b"], [], [])
    expected, found = rows_of(theirs), rows_of(ours)
    for frames in (expected, found):
        # Another writer's Parquet file has other bytes for the same rows; null stands for NaN.
        frames["evaluations"] = frames["evaluations"].drop(columns="verdicts_sha256")
    assert_same(expected, found)
    Database(ours).rebuild()
    assert len(Database(ours).query("SELECT * FROM verdicts")) == 40
    assert not list(ours.glob(".incoming*"))


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/me/data", "data"),
        ("--results=/home/me/my-results", "--results=my-results"),
        ('File "/home/me/x.py", line 2\n/home/me/y.py', 'File "x.py", line 2\ny.py'),
        ("https://arxiv.org/abs/2305.13948", "https://arxiv.org/abs/2305.13948"),
        ("../data, eps 8/255 / 4, cifar10/wrn-34-10", "../data, eps 8/255 / 4, cifar10/wrn-34-10"),
    ],
)
def test_an_export_names_no_folder_of_its_machine(lab, tmp_path, text, shared):
    theirs = lab("theirs", "a")
    RunDirectory(theirs, "a").update(error=text)
    Database(theirs).rebuild()
    exchange.export(theirs, tmp_path / "parquet")
    exchange.import_(tmp_path / "ours", tmp_path / "parquet")
    assert RunDirectory(tmp_path / "ours", "a").record["error"] == shared
    (error,) = Database(tmp_path / "ours").query("SELECT error FROM runs")["error"]
    assert error == shared


def test_images_in_random_order_come_back_in_that_order(lab, tmp_path):
    """The order is part of what a sequential evaluation found."""
    theirs = lab("theirs", "a")
    evaluation = RunDirectory(theirs, "a").evaluation("e1")
    verdicts = evaluation.verdicts()
    drawn = verdicts.take(list(range(len(verdicts)))[::-1])
    assert drawn["index"].to_pylist() != sorted(drawn["index"].to_pylist())
    write_verdicts(drawn, evaluation.verdicts_path)
    evaluation.update(verdicts_digest=verdicts_digest(drawn))
    Database(theirs).rebuild()
    exchange.export(theirs, tmp_path / "parquet")
    alone = tmp_path / "alone.duckdb"
    shutil.copy(Database(theirs).path, alone)
    imported, merged = tmp_path / "imported", tmp_path / "merged"
    for found in (
        exchange.import_(imported, tmp_path / "parquet"),
        exchange.merge_other(merged, alone),
    ):
        assert summary(found) == (["a"], [], [], [], [])
    for results in (imported, merged):
        assert RunDirectory(results, "a").evaluation("e1").verdicts().equals(drawn)


def test_a_changed_export_is_refused_and_nothing_comes_in(lab, tmp_path):
    theirs, ours = lab("theirs", "a"), lab("ours")
    exchange.export(theirs, tmp_path / "parquet")
    path = tmp_path / "parquet" / "verdicts.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"verdicts\.parquet is not the file that was exported"):
        exchange.import_(ours, tmp_path / "parquet")
    (tmp_path / "parquet" / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="describes no exported results"):
        exchange.import_(ours, tmp_path / "parquet")
    with pytest.raises(UserError, match="holds no export"):
        exchange.import_(ours, tmp_path)
    assert not (ours / "runs").exists()


def test_a_database_without_its_run_directories_is_merged(lab, tmp_path):
    theirs, ours = lab("theirs", "a", "b"), lab("ours", "a")
    sent = tmp_path / "sent.duckdb"
    shutil.copy(Database(theirs).path, sent)
    assert summary(exchange.merge_other(ours, sent)) == (["b"], [], ["a"], [], [])
    assert len(Database(ours).query("SELECT * FROM verdicts WHERE run_id = 'b'")) == 20
    assert RunDirectory(ours, "b").evaluation("e1").record["flags"] == ["a warning"]


def test_weights_follow_an_import(lab, tmp_path):
    theirs, ours = lab("theirs", "a"), lab("ours")
    exchange.export(theirs, tmp_path / "parquet")
    exchange.import_(ours, tmp_path / "parquet")
    run = RunDirectory(ours, "a")
    assert not run.model_path.exists()
    assert summary(merge(ours, theirs)) == ([], ["a"], [], [], [])
    assert run.model_path.read_bytes() == RunDirectory(theirs, "a").model_path.read_bytes()


def test_the_verbs_print_what_they_did(lab, tmp_path):
    ours, theirs, third = lab("ours", "a"), lab("theirs", "a", "b"), lab("third")
    other_weights(RunDirectory(theirs, "a"))

    def verb(*words: object, status: int = 0) -> str:
        ended = CliRunner().invoke(db, [*map(str, words)], catch_exceptions=False)
        assert ended.exit_code == status, ended.output
        return ended.output

    first, second = verb("merge", theirs, "--results", ours, status=1).splitlines()
    assert first == "runs: 1 added, 0 completed, 0 the same, 1 in conflict, 0 left out"
    assert second.startswith("in conflict: a has other weights or verdicts here; theirs is in ")
    exported = verb("export", "--parquet", tmp_path / "p", "--results", ours)
    assert exported.startswith(f"exported to {tmp_path / 'p'}: 2 runs, 2 evaluations")
    answer = json.loads(verb("import", tmp_path / "p", "--results", third, "--json"))
    assert answer["added"] == ["a", "b"]
    assert answer["conflicts"] == answer["left_out"] == {}
    RunDirectory(third, "b").evaluation("e1").verdicts_path.write_text("damaged")
    assert "left out: " in verb("rebuild", "--results", third, status=1)
    assert "left out: b@e1: " in verb("merge", third, "--results", ours, status=1)
    healed = verb("merge", ours, "--results", third)
    assert healed.startswith("runs: 0 added, 2 completed, 0 the same, 0 in conflict, 0 left out")
    verb("rebuild", "--results", third)


def test_a_file_that_is_no_database_is_refused_and_left_alone(lab, tmp_path):
    other = tmp_path / "elsewhere" / "passwd"
    other.parent.mkdir()
    other.write_text("root:x:0:0:root:/root:/bin/bash\n")
    ours = lab("ours", "a")
    for path in (other, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(UserError, match=re.escape(str(path))):
            exchange.merge_other(ours, path)
    assert list(other.parent.iterdir()) == [other]
