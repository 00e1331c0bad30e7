"""The pages' SQL against stores whose content is known."""

import json

import numpy as np
import pytest

from app import queries
from harness.config import STANDARD_ATTACKS as STAGES
from harness.config import EvalConfig
from harness.errors import UserError
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from leaderboards.render.report import made_from


def test_runs_carry_their_evaluation_and_the_last_epochs(small_store) -> None:
    results, ids = small_store
    runs = queries.runs(Database(results)).set_index("run_id")
    record = json.loads(
        next((results / "runs" / ids["a"]).glob("evaluations/*/evaluation.json")).read_text()
    )
    for name in ("clean", "robust"):
        assert runs.loc[ids["a"], name] == pytest.approx(record["metrics"][name]["value"])
    assert list(runs.loc[ids["a"], "validation"]) == pytest.approx([0.25, 0.3, 0.35, 0.4, 0.45])
    assert np.isnan(runs.loc[ids["running"], "robust"])
    assert runs["found"].tolist() == [4, 4, 4, 4]
    assert runs.index[0] == ids["failed"]


def test_a_run_is_represented_by_its_own_protocol_whatever_was_measured_later(
    measured_again,
) -> None:
    results, run_id = measured_again
    database = Database(results)
    (row,) = queries.runs(database).to_dict("records")
    assert (row["eps"], row["evaluation_id"]) == (0.15, "e" * 12)
    assert queries.comparable(database)["evaluation_id"].tolist() == ["e" * 12]
    found = [each["evaluation_id"] for each in queries.evaluations(database, run_id)]
    assert found == ["e" * 12, "f" * 12]


@pytest.mark.parametrize(
    "changes", [{"budget": {"n_iter": 20, "n_queries": 1000}}, {"order": "random", "n": 80}]
)
def test_an_evaluation_with_another_budget_or_order_is_not_the_main_one(
    store_run, store_evaluation, tmp_path, changes
) -> None:
    protocol = EvalConfig(eps=0.15, attacks=STAGES, limit=40)
    run_id = store_run(tmp_path, "ikl", "IKL-AT", evaluation=protocol)
    run = RunDirectory(tmp_path, run_id)
    store_evaluation(run, 1, name="f" * 12, minute=30, **changes)
    Database(tmp_path).record(run)
    assert queries.runs(Database(tmp_path))["evaluation_id"].tolist() == ["e" * 12]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("whole", {"eps": 0.02, "partial": False}),
        ("stages", {"eps": 0.02, "partial": True, "attacks": ["apgd-ce", "apgd-t"]}),
    ],
)
def test_of_other_protocols_whole_and_stronger_ones_are_shown(
    store_run, store_evaluation, tmp_path, name, changes
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT", status="started")
    run = RunDirectory(tmp_path, run_id)
    store_evaluation(run, 1, name=name, minute=5, **changes)
    weaker = {"attacks": ["apgd-ce"], "partial": True}
    store_evaluation(run, 1, name="weaker", minute=40, **{"eps": 0.02} | weaker)
    Database(tmp_path).record(run)
    assert queries.runs(Database(tmp_path))["evaluation_id"].tolist() == [name]


@pytest.mark.parametrize(
    ("filters", "roles"),
    [
        ({"status": ["success"]}, {"a", "b"}),
        ({"words": "TRADES"}, {"b"}),
        ({"words": "resnet8"}, {"a", "b", "running", "failed"}),
        ({"methods": ["IKL-AT", "MART"]}, {"a", "running"}),
        ({"datasets": ["cifar10"]}, set()),
        ({"status": ["error"]}, {"failed"}),
        ({"words": "' OR true --"}, set()),
        ({"words": "%"}, set()),
    ],
)
def test_filters_restrict_the_runs(small_store, filters, roles) -> None:
    results, ids = small_store
    found = queries.runs(Database(results), **filters)
    assert set(found["run_id"]) == {ids[role] for role in roles}


def test_a_limited_list_says_how_many_runs_there_are(large_store) -> None:
    found = queries.runs(Database(large_store), limit=7)
    assert len(found) == 7
    assert set(found["found"]) == {300}
    assert found["run_id"].iloc[0].endswith(f"{299:012x}")


def test_classes_and_stages_count_every_image_once(small_store) -> None:
    results, ids = small_store
    database = Database(results)
    classes = queries.per_class(database, ids["a"], "e" * 12)
    broken_by = queries.broken_by(database, ids["a"], "e" * 12).set_index("broken_by")["n"]
    assert classes["n"].sum() == broken_by.sum() == 40
    assert classes["clean"].sum() == 40 - broken_by["clean"]
    assert classes["robust"].sum() == broken_by["robust"]
    broken = queries.samples(database, ids["a"], "e" * 12, "apgd-ce", 100)
    assert len(broken) == broken_by["apgd-ce"]
    assert (broken["adv_pred"] != broken["label"]).all()


def test_a_protocol_is_represented_by_its_newest_run(small_store) -> None:
    results, ids = small_store
    (row,) = queries.protocols(Database(results)).to_dict("records")
    assert row["runs"] == 2
    assert row["run_id"] == ids["b"]


def test_a_protocol_says_whether_the_epoch_was_selected_on_test_images(store_run, tmp_path) -> None:
    for seed, selection in enumerate(("last", "best-on-test")):
        store_run(tmp_path, "ikl", "IKL-AT", seed=seed, selection=selection)
    found = queries.protocols(Database(tmp_path)).set_index("run_id")["best_on_test"]
    assert sorted(found) == [False, True]


def test_the_newest_evaluations_are_those_of_whole_runs(
    measured_again, store_run, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(queries, "MAX_MEASURED", 1)
    found = queries.measured(Database(measured_again[0]))
    assert found["evaluation_id"].tolist() == ["f" * 12, "e" * 12]
    older, newer = (store_run(tmp_path, "ikl", "IKL-AT", seed=seed) for seed in (1, 2))
    for only, run_id in (((), newer), ([older], older)):
        found = queries.measured(Database(tmp_path), only)
        assert (found["run_id"].tolist(), found["found"].tolist()) == ([run_id], [2])


def test_the_commit_is_the_newest_runs_or_unknown(store_run, tmp_path) -> None:
    store_run(tmp_path, "ikl", "IKL-AT", seed=1)
    database = Database(tmp_path)
    assert queries.overview(database)["commit"] == "a" * 40
    assert "at commit aaaaaaaaa" in made_from(tmp_path)
    store_run(tmp_path, "ikl", "IKL-AT", seed=2, provenance={"git": {"commit": None}})
    assert queries.overview(database)["commit"] is None
    assert "commit" not in made_from(tmp_path)


def test_running_epochs_replace_the_stored_ones_only_if_there_are_more(store_run, tmp_path) -> None:
    run_id = store_run(tmp_path, "kd", "KD", status="started")
    stored = queries.runs(Database(tmp_path))
    directory = RunDirectory(tmp_path, run_id)
    directory.append_epoch({"epoch": 6, "clean_val": 0.7, "pgd_val": None})
    (row,) = queries.with_running_epochs(stored, tmp_path).to_dict("records")
    assert (row["epochs_done"], row["validation"][-1]) == (6, 0.7)
    (row,) = queries.with_running_epochs(stored, tmp_path / "moved").to_dict("records")
    assert (row["epochs_done"], len(row["validation"])) == (5, 5)


def test_an_unknown_run_is_named(small_store) -> None:
    with pytest.raises(UserError, match="there is no run 'x'"):
        queries.run(Database(small_store[0]), "x")
