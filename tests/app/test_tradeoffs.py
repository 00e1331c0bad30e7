"""Trade-offs: which points there are, which share a chart, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from app.tradeoff_points import (
    ALONE,
    GENERATED,
    SOURCES,
    UNKNOWN,
    family_of,
    fronts,
    labelled,
    printed_points,
    published_points,
    run_points,
)
from harness.store.database import Database
from leaderboards.printed import REPORTED_CSV
from leaderboards.published import ENTRIES_CSV

P, S = (SOURCES[badge] for badge in "PS")


def words(at) -> str:
    return "\n".join(str(each.value) for each in (*at.caption, *at.markdown)).replace("\\", "")


def test_printed_points_are_the_printed_numbers() -> None:
    points = printed_points()
    row = points[(points["name"] == "IKL-AT") & (points["clean"] == 66.51)]
    assert row["aa"].tolist() == [31.45]
    # Table 1 prints the same model.
    assert row["where"].tolist() == ["Tables 1, 2"]


def test_printed_times_are_shown_with_printed_accuracies(open_page, empty) -> None:
    axes = {"x": "Seconds per step", "y": "Clean accuracy (%)"}
    frame = open_page("tradeoffs", empty, ds="imagenet", **axes).dataframe[0].value
    printed = pd.read_csv(REPORTED_CSV)
    printed = printed[printed["table"] == 3].set_index(["method", "student_or_arch"])
    times = printed[printed["metric"] == "sec_per_iter"]["value"]
    accuracies = printed[printed["metric"] == "top1"]["value"]
    assert set(zip(frame["x"], frame["y"], strict=True)) == {
        (times[key], accuracies[key]) for key in times.index
    }
    assert len(frame) == 4


def test_points_of_different_attacks_share_no_chart(open_page, store_run, tmp_path) -> None:
    for seed, (eps, weight) in enumerate(((0.15, 1.0), (0.15, 2.0), (0.02, 1.0))):
        store_run(tmp_path, "ikl", "IKL-AT", seed=seed, eps=eps, weight=weight)
    own, other = (f"Linf {eps}, AutoAttack" for eps in (0.15, 0.02))
    at = open_page("tradeoffs", tmp_path, ds="digits")
    assert len(at.dataframe[0].value) == 2
    assert at.selectbox(key="protocol").value == own
    assert "2 points. Left out: 1 under other attacks." in words(at)
    at = open_page("tradeoffs", tmp_path, ds="digits", protocol=other)
    assert len(at.dataframe[0].value) == 1


def test_seeds_of_one_configuration_are_one_point(open_page, store_run, tmp_path) -> None:
    for seed in range(3):
        store_run(tmp_path, "ikl", "IKL-AT", seed=seed)
    store_run(tmp_path, "ikl", "IKL-AT", seed=3, status="error")
    at = open_page("tradeoffs", tmp_path, ds="digits")
    (row,) = at.dataframe[0].value.to_dict("records")
    assert row["note"] == "n = 40, mean ± std of 3 seeds"
    assert "Left out: 1 run without a finished evaluation" in words(at)


def test_a_merged_point_has_the_mean_and_the_sample_deviation() -> None:
    values = [0.5, 0.6, 0.7]
    runs = pd.DataFrame(
        {
            "run_id": list("abc"), "title": "IKL-AT", "arch": "resnet8", "teacher": None,
            "dataset": "digits", "scale": "small", "partial": False, "seed_group": "g",
            "like_key": "k", "generated_name": None, "attacks": "apgd-ce", "norm": "Linf",
            "eps": 0.1, "precision": "float32", "attack_version": "x y", "n": 10,
            "clean": 0.9, "clean_low": 0.8, "clean_high": 0.95, "robust": values,
            "robust_low": 0.1, "robust_high": 0.9, "aa": np.nan, "sec_per_iter": [1.0, 2.0, 3.0],
            "train_seconds": 3600.0, "device": "cpu", "kind": "trained", "selection": "last",
        }
    )  # fmt: skip
    (point,) = run_points(runs).to_dict("records")
    assert point["robust"] == pytest.approx(60)
    assert point["robust_high"] - point["robust"] == pytest.approx(10)
    assert np.isnan(point["aa"])
    assert (point["sec_per_iter"], point["seeds"], point["family"]) == (2, 3, "IKL, GKL")
    (point,) = run_points(runs.assign(robust=[0.5, np.nan, 0.7])).to_dict("records")
    assert np.isnan(point["robust"])
    assert np.isnan(point["robust_high"])


def test_a_loaded_model_has_a_front_of_its_own(open_page, store_run, tmp_path) -> None:
    store_run(tmp_path, "ikl", "IKL-AT")
    loaded = {"kind": "loaded", "config": None, "source": {"source": "x:NAME"}}
    run_id = store_run(tmp_path, "x", "NAME", seed=1, **loaded)
    at = open_page("tradeoffs", tmp_path, ds="digits")
    frame = at.dataframe[0].value.set_index("name")
    assert frame["training_data"].to_dict() == {"IKL-AT": ALONE, "NAME": UNKNOWN}
    assert frame.loc["NAME", "where"] == run_id
    lines = [line for line in words(at).splitlines() if "on the front (" in line]
    named = [(line.partition("**, ")[0], "NAME" in line) for line in lines]
    assert sorted(named) == [("**Training data unknown", True), ("**Training set alone", False)]


def test_entries_are_filed_under_the_images_they_were_measured_on() -> None:
    points = published_points(None)
    notes = points.groupby("dataset")["note"].agg(lambda own: {note.split(";")[0] for note in own})
    assert notes.to_dict() == {
        "cifar10": {"n = 10,000"}, "cifar100": {"n = 10,000"}, "imagenet-robustbench": {"n = 5,000"}
    }  # fmt: skip


def test_small_scale_runs_are_a_layer_that_is_asked_for(open_page, reference) -> None:
    at = open_page("tradeoffs", reference, ds="cifar10", rb="false")
    assert set(at.dataframe[0].value["source"]) == {P}
    runs = Database(reference).query("SELECT run_id FROM evaluations WHERE attacks LIKE '%square'")
    assert f"{len(runs)} small-scale" in words(at)
    at = open_page("tradeoffs", reference, ds="cifar10", small="true")
    frame = at.dataframe[0].value
    assert (frame["source"] == S).sum() == len(runs)
    assert "small-scale" not in words(at).split("Left out")[1]
    fronts_named = " ".join(each.value for each in at.markdown if "on the front" in each.value)
    assert "wrn-16-2" not in fronts_named.replace("\\", "")


def test_small_scale_runs_neither_choose_the_attack_nor_the_scale(open_page, reference) -> None:
    """The reference runs are mostly clean only, and far below the paper's numbers."""
    at = open_page("tradeoffs", reference, ds="cifar100")
    assert at.selectbox(key="protocol").value == "Linf 8/255, AutoAttack"
    below = [open_page("tradeoffs", reference, ds="cifar10", small=s) for s in ("false", "true")]
    alone, together = (at.dataframe[0].value for at in below)
    added = together[~together["name"].isin(alone["name"])]
    assert "Standard" not in set(together["name"])
    assert set(added["source"]) == {S}
    sql = "SELECT method_title FROM runs WHERE dataset = 'cifar10'"
    assert set(added["name"]) <= set(Database(reference).query(sql)["method_title"])


def test_robustbench_is_a_layer_with_its_warnings(open_page, empty) -> None:
    at = open_page("tradeoffs", empty, ds="cifar100")
    frame = at.dataframe[0].value.set_index("name")
    board = frame[frame["source"].str.startswith("RB")]
    shipped = pd.read_csv(ENTRIES_CSV)
    own = shipped[(shipped["dataset"] == "cifar100") & (shipped["threat_model"] == "Linf")]
    own = own.set_index("key")
    names = board.index.str.removesuffix(" ?")
    assert set(names) <= set(own.index)
    assert len(names) == (own["autoattack"].notna() & own["eps"].isin(["8/255", "0.031"])).sum() - 1
    # It leaves 18.95%, far below the paper's rows.
    assert "1 from RobustBench far below the rest" in words(at)
    assert board["y"].tolist() == own.loc[names, "autoattack"].tolist()
    doubted = [name for name in names if own.loc[name, "unreliable"] is True]
    assert set(board.index[board.index.str.endswith("?")]) == {f"{name} ?" for name in doubted}
    assert not any("?" in each.value for each in at.markdown if "on the front" in each.value)
    hidden = open_page("tradeoffs", empty, ds="cifar100", rb="false")
    assert f"{len(board) + 1} from RobustBench" in words(hidden)
    assert set(hidden.dataframe[0].value["source"]) == {P}


def test_each_kind_of_training_data_has_its_own_front() -> None:
    points = printed_points()
    shown = points[(points["dataset"] == "cifar100") & points["aa"].notna()]
    found = fronts(shown.assign(x=shown["clean"], y=shown["aa"]), x_lower=False, y_lower=False)
    assert set(found) == {ALONE, GENERATED}
    assert found[GENERATED]["aa"].tolist() == [39.18]
    assert found[ALONE]["aa"].tolist() == [31.67, 31.45, 29.1]


def front_points(**changes) -> pd.DataFrame:
    points = {"x": [1.0, 2.0], "y": [2.0, 1.0], "source": S, "training_data": ALONE}
    points |= {"doubted": None, "best_on_test": False, "partial": False, "device": "cpu"}
    return pd.DataFrame(points | changes)


def test_partial_runs_are_on_no_front(open_page, store_run, tmp_path) -> None:
    store_run(tmp_path, "ikl", "IKL-AT", partial=True)
    assert "on the front (" not in words(open_page("tradeoffs", tmp_path, ds="digits"))
    store_run(tmp_path, "trades", "TRADES", seed=1)
    (line,) = [
        line
        for line in words(open_page("tradeoffs", tmp_path, ds="digits")).splitlines()
        if "on the front (" in line
    ]
    assert "TRADES" in line
    assert "IKL-AT" not in line
    found = fronts(front_points(partial=[True, False]), x_lower=False, y_lower=False)
    assert found[ALONE]["x"].tolist() == [2]
    assert fronts(front_points(partial=True), x_lower=False, y_lower=False) == {}


def test_epochs_chosen_on_test_images_are_on_a_front_only_among_themselves(
    open_page, store_run, tmp_path
) -> None:
    better = {"x": [1.0, 2.0], "y": [1.0, 2.0]}
    found = fronts(front_points(**better, best_on_test=[False, True]), x_lower=False, y_lower=False)
    assert found[ALONE]["x"].tolist() == [1]
    found = fronts(front_points(**better, best_on_test=True), x_lower=False, y_lower=False)
    assert found[ALONE]["x"].tolist() == [2]
    for seed, (name, selection) in enumerate({"ikl": "best-on-test", "kl": "last"}.items()):
        store_run(tmp_path, name, name.upper(), seed=seed, selection=selection)
    at = open_page("tradeoffs", tmp_path, ds="digits")
    (line,) = [line for line in words(at).splitlines() if "on the front (" in line]
    assert "KL (resnet8)" in line
    assert "IKL" not in line
    notes = at.dataframe[0].value.set_index("name")["note"]
    assert notes.to_dict() == {"IKL": "n = 40, best epoch on test", "KL": "n = 40"}


@pytest.mark.parametrize(
    ("device", "known"),
    [("cpu", True), (["cpu", "gpu"], False), (["cpu", None], False), (None, False)],
)
def test_times_have_a_front_only_on_one_device(device, known) -> None:
    points = front_points(device=device)
    assert (ALONE in fronts(points, x_lower=True, y_lower=False)) == known
    assert ALONE in fronts(points, x_lower=False, y_lower=False)


def test_a_brush_ends_with_its_chart(open_page, empty) -> None:
    queries = ({"ds": "cifar100"}, {"ds": "cifar10"}, {"ds": "cifar100", "y": "Clean accuracy (%)"})
    charts = [open_page("tradeoffs", empty, **q).get("vega_lite_chart")[0] for q in queries]
    assert len({chart.proto.id for chart in charts}) == 3


def test_names_do_not_overlap() -> None:
    points = pd.DataFrame(
        {"x": [0.0, 0.01, 1.0], "y": [0.0, 0.0, 1.0], "short": ["aaaa", "bbbb", "c"]}
    ).assign(family=["other", "IKL, GKL", "other"])
    shown = labelled(points, pd.Index([]), (400, 300))
    assert shown.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("IKL-AT", "IKL, GKL"),
        ("KL baseline (improved TRADES)", "KL, DKL"),
        ("KL (TRADES + AWP + growing epsilon)", "KL, DKL"),
        ("DKL + BA", "KL, DKL"),
        ("TRADES", "TRADES"),
        ("AWP", "other methods"),
    ],
)
def test_a_family_is_told_by_the_name(name, family) -> None:
    assert family_of(name) == family
