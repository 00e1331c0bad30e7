"""Two results folders become one: what ``corrupt`` measured on either side is kept."""

import shutil
from pathlib import Path

import pytest

from harness.store.database import Database
from harness.store.files import write_json_atomic
from harness.store.rundir import RunDirectory
from harness.store.sharing import merge
from tests.harness.store.conftest import summary


def corrupt(run: RunDirectory, name: str, correct: int, *, levels: int = 5) -> None:
    """What ``corrupt --corruptions NAME`` stores: all of it if it has reached level 5."""
    protocol = {"dataset": "cifar10", "corruptions": [name], "severities": [1, 2, 3, 4, 5], "n": 10}
    counts = {f"{name}/{level}": correct for level in range(1, levels + 1)}
    content = {"protocol": protocol, "correct": counts}
    write_json_atomic(content, run.path / f"corruptions-{name}.json")
    if levels == 5:
        mean = {"value": correct / 10, "n": 10}
        measured = {"corruptions-partial": mean, f"corruptions-partial/{name}": mean}
        stored = {"corruptions-partial": protocol}
        run.update(metrics=run.record["metrics"] | measured, **stored)


def corruptions_of(results: Path) -> dict[str, float]:
    """Values in the database, which must be those in the record."""
    sql = "SELECT name, value FROM metrics WHERE evaluation_id IS NULL ORDER BY name"
    found = dict(Database(results).query(sql).itertuples(index=False))
    metrics = RunDirectory(results, "a").record["metrics"]
    assert found.keys() == metrics.keys()
    chosen = [name for name in found if name.startswith("corruptions")]
    assert [found[name] for name in chosen] == [metrics[name]["value"] for name in chosen]
    assert {"sec_per_iter", "train_seconds"} <= found.keys()
    return {name.removeprefix("corruptions-partial"): found[name] for name in chosen}


@pytest.mark.parametrize("further", ["neither side", "this side", "the other side"])
def test_results_on_corrupted_images_are_kept_of_both_sides(further, lab):
    ours, theirs = lab("ours", "a"), lab("theirs", "a")
    for results, side in ((ours, "this side"), (theirs, "the other side")):
        if further not in ("neither side", side):
            RunDirectory(results, "a").update(status="error")
    corrupt(RunDirectory(ours, "a"), "fog", 6)
    corrupt(RunDirectory(theirs, "a"), "snow", 8)
    assert summary(merge(ours, theirs)) == ([], ["a"], [], [], [])
    run = RunDirectory(ours, "a")
    assert run.record["status"] == "success"
    files = sorted(path.name for path in run.path.glob("corruptions-*"))
    assert files == ["corruptions-fog.json", "corruptions-snow.json"]
    own, mean = ("snow", 0.8) if further == "the other side" else ("fog", 0.6)
    assert corruptions_of(ours) == {"": mean, f"/{own}": mean}
    assert run.record["corruptions-partial"]["corruptions"] == [own]
    assert summary(merge(ours, theirs)) == ([], [], ["a"], [], [])
    Database(ours).rebuild()
    assert corruptions_of(ours) == {"": mean, f"/{own}": mean}


@pytest.mark.parametrize("further", ["this side", "the other side"])
def test_a_full_and_a_partial_result_keep_their_metrics_and_protocols(further, lab):
    ours, theirs = lab("ours", "a"), lab("theirs", "a")
    run, other = RunDirectory(ours, "a"), RunDirectory(theirs, "a")
    corrupt(run, "fog", 6)
    full = {"corruptions": {"value": 0.9, "n": 10}, "corruptions/fog": {"value": 0.7, "n": 10}}
    other.update(metrics=other.record["metrics"] | full, corruptions={"partial": False})
    (other if further == "this side" else run).update(status="error")
    assert summary(merge(ours, theirs)) == ([], ["a"], [], [], [])
    assert full.items() <= run.record["metrics"].items()
    assert run.record["metrics"]["corruptions-partial/fog"] == {"value": 0.6, "n": 10}
    assert run.record["corruptions"] == {"partial": False}
    assert run.record["corruptions-partial"]["corruptions"] == ["fog"]
    assert summary(merge(ours, theirs)) == ([], [], ["a"], [], [])


def test_of_an_interrupted_measurement_the_side_with_more_counts_is_kept(lab):
    less, more = lab("less", "a"), lab("more", "a")
    corrupt(RunDirectory(less, "a"), "fog", 6, levels=2)
    corrupt(RunDirectory(more, "a"), "fog", 6, levels=4)
    RunDirectory(more, "a").update(status="error")
    path = RunDirectory(more, "a").path / "corruptions-fog.json"
    expected = path.read_text()
    copy = less.with_name("copy")
    shutil.copytree(less, copy)
    assert summary(merge(less, more)) == ([], ["a"], [], [], [])
    assert (RunDirectory(less, "a").path / path.name).read_text() == expected
    assert summary(merge(more, copy)) == ([], ["a"], [], [], [])
    assert path.read_text() == expected


@pytest.mark.parametrize("text", ["{", "[]", '{"correct": 3}'])
def test_a_damaged_file_of_counts_is_left_out_and_named_or_replaced(text, lab):
    ours, theirs = lab("ours", "a"), lab("theirs", "a", "b")
    for results in (ours, theirs):
        corrupt(RunDirectory(results, "a"), "fog", 6)
    corrupt(RunDirectory(theirs, "b"), "fog", 6)
    mine, other = (RunDirectory(each, "a").path / "corruptions-fog.json" for each in (ours, theirs))
    damaged = RunDirectory(theirs, "b").path / "corruptions-fog.json"
    whole = other.read_text()
    for path in (mine, damaged):
        path.write_text(text)
    merged = merge(ours, theirs)
    assert summary(merged) == (["b"], ["a"], [], [], ["b@corruptions-fog.json"])
    assert str(damaged) in merged.left_out["b@corruptions-fog.json"]
    assert mine.read_text() == whole


def test_a_run_in_conflict_gets_what_the_other_side_measured_later(lab):
    ours, theirs = lab("ours", "a"), lab("theirs", "a")
    evaluation = RunDirectory(theirs, "a").evaluation("e1")
    evaluation.update(protocol=evaluation.record["protocol"] | {"model_sha256": "9" * 64})
    (aside,) = merge(ours, theirs).conflicts.values()
    corrupt(RunDirectory(theirs, "a"), "fog", 6)
    assert list(merge(ours, theirs).conflicts.values()) == [aside]
    assert corruptions_of(aside) == {"": 0.6, "/fog": 0.6}
    assert corruptions_of(ours) == {}
