"""The comparison of two models: its numbers, its words, and which runs it offers."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

import divergence_bench as bench
from app import comparison
from divergence_bench.cli.compare import compare as command
from harness.evaluation.analysis.statistics import compare_paired
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from tests.divergence_bench.test_api import network
from tests.divergence_bench.test_decide import damaged
from tests.harness.evaluation.analysis.test_paired import A_BROKEN, B_BROKEN, made

B_EARLIER = [*B_BROKEN[:4], "apgd-ce", B_BROKEN[5]]
IKL, KL, TRADES = "ikl-7ad16276ecfe", "kl-88897efe8687", "trades-75bbd56ef462"


def words(at) -> str:
    shown = [*at.title, *at.subheader, *at.markdown, *at.caption, *at.info, *at.warning]
    return "\n".join(str(each.value) for each in shown).replace("\\", "")


def seeds_of(results, method: str) -> list[str]:
    runs = Database(results).query(
        "SELECT run_id FROM runs WHERE method = ? AND arch = 'resnet8' ORDER BY seed", [method]
    )
    return runs["run_id"].tolist()


def test_the_line_is_the_one_of_the_reference_runs(open_page, reference) -> None:
    at = open_page("compare", reference, a=IKL, b=KL)
    # As results/reference/small-scale.md has them.
    assert at.subheader[0].value == "A 22.80, B 17.00, A - B +5.80 [+2.97, +8.69], p = 8e-5"


def test_the_line_and_its_meaning_are_those_of_the_stored_verdicts(open_page, small_store) -> None:
    results, ids = small_store
    at = open_page("compare", results, a=ids["a"], b=ids["b"])
    pairs = Database(results).query(
        """SELECT a.broken_by IS NULL AS a, b.broken_by IS NULL AS b
        FROM verdicts a JOIN verdicts b USING (index) WHERE a.run_id = ? AND b.run_id = ?""",
        [ids["a"], ids["b"]],
    )
    only_a, only_b = int((pairs["a"] & ~pairs["b"]).sum()), int((~pairs["a"] & pairs["b"]).sum())
    line = at.subheader[0].value
    gap = 100 * (only_a - only_b) / 40
    assert line.startswith(f"A {100 * pairs['a'].mean():.2f}, B {100 * pairs['b'].mean():.2f}, ")
    assert f"A - B {gap:+.2f} [" in line
    assert line.endswith(f"p = {binomtest(only_a, only_a + only_b).pvalue:.2g}")
    assert f"A on {only_a}, B on {only_b}" in words(at)
    assert "not the probability that they are equally good" in words(at)
    assert at.table[0].value.to_numpy().sum() == 40


def test_seeds_are_compared_as_by_the_command_line(open_page, reference, capsys) -> None:
    (a, *_), (b, *_) = (seeds_of(reference, name) for name in ("ikl-kd", "kd"))
    text = words(open_page("compare", reference, a=a, b=b))
    # As results/reference/small-scale.md has them.
    assert "A 26.39 ± 0.22 (3 seeds), B 22.19 ± 0.25 (3 seeds), A - B +4.20 [+3.65, +4.74]" in text
    assert text.count("(Welch's t)") == 1
    command([*seeds_of(reference, "ikl-kd"), *seeds_of(reference, "kd")], results=reference)
    assert "+4.20 [+3.65, +4.74]" in capsys.readouterr().out


def test_only_runs_of_the_same_protocol_are_offered(open_page, reference) -> None:
    at = open_page("compare", reference, a=IKL, b=KL)
    offered = at.selectbox(key="b-choice").options
    alike = Database(reference).query("SELECT run_id FROM evaluations WHERE attacks LIKE '%square'")
    assert len(offered) == len(alike) - 1
    assert all("cifar10," in title for title in offered)
    assert any(TRADES in title for title in offered)


def test_runs_of_different_protocols_are_not_offered(open_page, store_run, tmp_path) -> None:
    runs = [store_run(tmp_path, "ikl", "IKL-AT", seed=n, eps=e) for n, e in enumerate((0.1, 0.3))]
    at = open_page("compare", tmp_path, a=runs[0], b=runs[1])
    assert "two finished runs of the same protocol" in words(at)
    runs += [store_run(tmp_path, "trades", "TRADES", seed=3, eps=0.3)]
    at = open_page("compare", tmp_path, a=runs[1])
    assert at.selectbox(key="b-choice").value == runs[2]
    assert "1 evaluated run whose protocol no other run shares" in words(at)


def test_old_runs_are_left_out_unless_the_url_names_them(
    open_page, store_run, tmp_path, monkeypatch
) -> None:
    runs = [store_run(tmp_path, "ikl", "IKL-AT", seed=seed) for seed in range(4)]
    runs.append(store_run(tmp_path, "kl", "KL", seed=5, eps=0.3))
    monkeypatch.setattr("app.queries.MAX_MEASURED", 2)
    at = open_page("compare", tmp_path, a=runs[0], b=runs[1])
    assert [at.selectbox(key=f"{side}-choice").value for side in "ab"] == runs[:2]
    assert not any("The URL asks" in box.value for box in at.warning)
    assert "Only 4 evaluated runs are" in words(at)
    assert "older runs left out: 1." in words(at)
    assert "1 evaluated run whose protocol no other run among the newest shares." in words(at)


def test_no_test_is_named_for_a_single_seed(open_page, store_run, tmp_path) -> None:
    first, *_ = (store_run(tmp_path, "ikl", "IKL-AT", seed=seed) for seed in (1, 2))
    text = words(open_page("compare", tmp_path, a=first, b=store_run(tmp_path, "kl", "KL", seed=3)))
    assert "Over seeds:" in text
    assert "Welch" not in text


def test_curves_name_their_measure_and_images(
    open_page, store_run, store_evaluation, tmp_path
) -> None:
    a = store_run(tmp_path, "ikl", "IKL-AT", seed=1)
    b = store_run(tmp_path, "natural", "Natural", seed=2, status="started")
    path = tmp_path / "runs" / b / "epochs.jsonl"
    path.write_text(path.read_text().replace("pgd_val", "no_value"))
    run = RunDirectory(tmp_path, b)
    store_evaluation(run, 2)
    run.update(status="success")
    Database(tmp_path).record(run)
    text = words(open_page("compare", tmp_path, a=a, b=b))
    assert "A: IKL-AT, under PGD ends at 45.0%; B: Natural, clean ends at 95.0%" in text
    assert "A on test images, B on test images." in text


def test_choosing_the_second_run_as_the_first_warns_of_nothing(open_page, small_store) -> None:
    results, ids = small_store
    at = open_page("compare", results, a=ids["a"], b=ids["b"])
    at = at.selectbox(key="a-choice").set_value(ids["b"]).run()
    assert at.selectbox(key="b-choice").value == ids["a"]
    assert not any("The URL asks" in box.value for box in at.warning)


def test_only_what_differs_beyond_the_method_is_warned_of(open_page, reference) -> None:
    at = open_page("compare", reference, a=IKL, b=KL)
    warnings = [box.value.replace("\\", "") for box in at.warning]
    assert len(warnings) == 1
    assert warnings[0].startswith("They differ in more than the method: ")
    assert "params." not in warnings[0]


def test_the_forest_has_every_stage_once(small_store, open_page) -> None:
    results, ids = small_store
    at = open_page("compare", results, a=ids["a"], b=ids["b"])
    assert "as a table" in " ".join(each.label for each in at.expander).lower()
    # A alone is correct on four of eight images, B alone on one.
    paired = compare_paired([True] * 5 + [False] * 3, [True] + [False] * 4 + [True] + [False] * 2)
    compared = comparison.Comparison(
        "a", "b", ("x", "y"), (), {}, 8, {"clean": paired, "square": paired, "aa": paired}
    )
    frame = comparison.forest(compared)
    assert frame["title"].tolist() == ["Clean", "after Square"]
    assert frame["difference"].tolist() == [37.5, 37.5]
    assert frame["low"].tolist() == [100 * paired.low] * 2
    assert frame["high"].tolist() == [100 * paired.high] * 2
    assert frame["text"][0].startswith("+37.50 [")


def test_disagreements_are_the_images_on_which_only_one_is_correct() -> None:
    a, b = made(A_BROKEN), made(B_BROKEN, method="mart")
    classes = {"clean_pred": [9, 1, 2, 0, 1, 2], "adv_pred": [9, 7, 2, 0, 8, 2]}
    a = replace(a, verdicts=a.verdicts.assign(**classes).iloc[[3, 0, 5, 1, 4, 2]])
    classes = {"clean_pred": [9, 6, 2, 0, 1, 2], "adv_pred": [9, 6, 5, 0, 1, 4]}
    b = replace(b, verdicts=b.verdicts.assign(**classes))
    found = comparison.disagreements(a, b, "robust")
    assert found.columns.tolist() == ["index", "label", "correct", "a", "b"]
    assert found.values.tolist() == [[2, 2, "A", 2, 5], [4, 1, "B", 8, 1], [5, 2, "A", 2, 4]]
    assert comparison.disagreements(a, b, "clean").values.tolist() == [[1, 1, "A", 1, 6]]
    # Square breaks A on image 4, on which it is correct after APGD-CE.
    b = replace(b, verdicts=b.verdicts.replace({"adv_pred": {1: 3}}).assign(broken_by=B_EARLIER))
    found = comparison.disagreements(a, b, "apgd-ce")
    assert found.values.tolist() == [[2, 2, "A", 2, 5], [4, 1, "A", 1, 3], [5, 2, "A", 2, 4]]


def test_pictures_of_an_earlier_stage_are_said_to_be_of_the_last(open_page, small_store) -> None:
    results, ids = small_store
    later = "A and B after the last stage. The predictions are those after APGD-CE"
    for stage, said in (("APGD-CE", True), ("Square", False), ("AutoAttack", False)):
        at = open_page("compare", results, a=ids["a"], b=ids["b"], right=stage)
        assert "the adversarial images for A and B" in words(at)
        assert (later in words(at)) == said


def test_images_that_were_saved_later_are_shown(
    open_page, store_run, store_evaluation, tmp_path
) -> None:
    runs = [store_run(tmp_path, name, name, seed=seed) for seed, name in enumerate(("ikl", "kl"))]
    for path in tmp_path.rglob("*.adversarial.npy"):
        path.unlink()
    how = {"a": runs[0], "b": runs[1]}
    assert "The first of them, without an attack." in words(open_page("compare", tmp_path, **how))
    for seed, run_id in enumerate(runs):
        chunks = RunDirectory(tmp_path, run_id).evaluation("e" * 12).chunks_path
        chunks.rmdir()
        store_evaluation(RunDirectory(tmp_path, run_id), seed)
    assert "then the adversarial images for A and B." in words(
        open_page("compare", tmp_path, **how)
    )


@pytest.mark.parametrize(
    ("p", "text"),
    [(8.2e-5, "p = 8e-5"), (1.0, "p = 1"), (0.0134, "p = 0.013"), (4.1e-38, "p = 4e-38")],
)
def test_a_p_value_is_short(p, text) -> None:
    assert comparison.p_text(p) == text


def test_runs_are_named_by_method_dataset_architecture_and_seed(open_page, small_store) -> None:
    results, ids = small_store
    at = open_page("compare", results, a=ids["a"], b=ids["b"])
    assert at.selectbox(key="a-choice").value == ids["a"]
    assert f"IKL-AT, digits, resnet8, seed 1, {ids['a']}" in at.selectbox(key="a-choice").options
    assert "Linf 0.15, AutoAttack, n = 40." in words(at)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Two decided models, of which one was evaluated on more images than the other."""
    results = tmp_path_factory.mktemp("drawn")
    settings = {"attacks": "none", "quiet": True, "chunk_size": 40, "results": results}
    good, bad = network(), damaged(0.5)
    counts = {"good": (good, 160), "bad": (bad, 80)}
    for name, (model, n) in counts.items():
        bench.evaluate(model, "digits", n=n, precision=1e-4, name=name, **settings)
    runs = Database(results).query("SELECT run_id, source FROM runs")
    return results, {name: _one(runs, name) for name in counts}


def _one(runs: pd.DataFrame, name: str) -> str:
    (run_id,) = runs[runs["source"].str.contains(name)]["run_id"]
    return str(run_id)


def test_models_on_images_in_random_order_are_compared_as_by_the_command_line(
    open_page, drawn, capsys
) -> None:
    results, ids = drawn
    at = open_page("compare", results, a=ids["good"], b=ids["bad"], right="clean")
    command([ids["good"], ids["bad"]], results=results)
    printed = capsys.readouterr().out
    found = re.search(r"A - B (\S+) \[(\S+), (\S+)\], p", at.subheader[0].value)
    assert found is not None
    difference, low, high = found.groups()
    assert re.search(
        rf"{re.escape(difference)}\s+\[{re.escape(low)},\s*{re.escape(high)}\]", printed
    )
    assert "drawn at random from 360" in words(at)
    assert "McNemar" not in words(at)
