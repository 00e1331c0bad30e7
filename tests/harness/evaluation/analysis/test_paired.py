"""Comparisons against counts by hand, and what is refused or noted."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binomtest, t, ttest_ind
from typer.testing import CliRunner

from divergence_bench.cli.compare import seeds_blocks, to_json
from divergence_bench.cli.main import app
from harness.config import RunConfig
from harness.errors import UserError
from harness.evaluation.analysis.comparable import Evaluated, by_one_protocol
from harness.evaluation.analysis.paired import compare, compare_seeds
from harness.evaluation.analysis.statistics import welch
from harness.store.rundir import RunDirectory
from harness.store.verdicts import VERDICT_SCHEMA, write_verdicts

ATTACKS = ["apgd-ce", "square"]
PROTOCOL: dict[str, Any] = {
    "norm": "Linf", "eps": 0.1, "attacks": ATTACKS, "attack_version": "custom x-1",
    "precision": "float32", "standard": False, "data_sha256": "d", "model_sha256": "m", "n": 6,
    "seed": 0, "chunk_size": 250, "accelerate": True,
}  # fmt: skip
A_BROKEN = ["clean", "apgd-ce", None, None, "square", None]
B_BROKEN = ["clean", "clean", "apgd-ce", None, None, "apgd-ce"]


def verdicts(broken_by: Sequence[str | None], first: int = 0) -> pd.DataFrame:
    rows = range(first, first + len(broken_by))
    return pd.DataFrame(
        {"index": rows, "label": [row % 3 for row in rows], "broken_by": list(broken_by)}
    )


def made(
    broken_by: Sequence[str | None],
    *,
    method: str = "trades",
    config: dict[str, Any] | None = None,
    first: int = 0,
    **protocol: Any,
) -> Evaluated:
    settings = RunConfig.model_validate({"method": method, **(config or {})}).model_dump(
        mode="json"
    )
    run = {"run_id": f"{method}-1", "method_title": method.upper(), "config": settings}
    stored_protocol = PROTOCOL | {"model_sha256": str(run) + str(config)} | protocol
    return Evaluated(run, "e1", stored_protocol, verdicts(broken_by, first))


@pytest.mark.parametrize(
    ("several", "expected"),
    [
        # Those with attacks come before those without, though they are older.
        (([("clean", 9), ("attacked", 6)], [("attacked", 4), ("clean", 9)]), [6, 4]),
        # The one with the most images, also where it is older.
        (([("clean", 5), ("clean", 9)], [("clean", 7), ("clean", 3)]), [9, 7]),
        # The newest of the first run's protocols.
        (([("L2", 5), ("attacked", 8)], [("attacked", 7), ("L2", 6)]), [5, 6]),
        # Clean accuracy on images drawn at random is another quantity than that on all of them.
        (([("drawn", 5), ("clean", 8)], [("drawn", 9), ("clean", 6)]), [5, 9]),
        (([("drawn", 9), ("attacked", 6)], [("attacked", 4), ("drawn", 9)]), [6, 4]),
        (([("drawn", 5)], [("clean", 7)]), None),
        # The only common one.
        (([("L2", 5), ("clean", 8)], [("attacked", 7), ("clean", 6)]), [8, 6]),
        (([("L2", 5)], [("attacked", 7)]), None),
    ],
)
def test_runs_are_compared_by_one_protocol_that_all_of_them_share(several, expected):
    changes: dict[str, dict[str, Any]] = {
        "clean": {"attacks": []}, "attacked": {}, "L2": {"norm": "L2"},
        "drawn": {"attacks": [], "attack_version": "custom x-1 sequential"},
    }  # fmt: skip
    runs = [[PROTOCOL | changes[name] | {"n": n} for name, n in run] for run in several]
    chosen = by_one_protocol(runs, lambda protocol: protocol)
    assert chosen == expected or [protocol["n"] for protocol in chosen or ()] == expected


def test_each_stage_is_counted_on_the_images_of_both():
    found = compare(made(A_BROKEN), made(B_BROKEN, method="mart"))
    cells = {
        name: (each.both, each.only_a, each.only_b, each.neither)
        for name, each in found.metrics.items()
    }
    assert cells == {
        "clean": (4, 1, 0, 1),
        "apgd-ce": (2, 2, 0, 2),
        "square": (1, 2, 1, 2),
        "robust": (1, 2, 1, 2),
    }
    robust = found.metrics["robust"]
    assert robust.difference == pytest.approx(1 / 6)
    assert robust.p_value == pytest.approx(binomtest(2, 3).pvalue)
    assert robust.agreement == pytest.approx(3 / 6)
    assert found.notes == ()
    assert "aa" in compare(made(A_BROKEN, standard=True), made(B_BROKEN, standard=True)).metrics


def test_only_shared_images_count():
    other = made([*B_BROKEN[2:], None], method="mart", first=2)
    found = compare(made(A_BROKEN), other)
    assert found.shared == 4
    robust = found.metrics["robust"]
    assert (robust.both, robust.only_a, robust.only_b, robust.neither) == (1, 2, 1, 0)
    assert "6, 5 images: the 4 that they share" in found.notes[-1]
    shuffled = Evaluated(
        other.run, "e", other.protocol, other.verdicts.sample(frac=1, random_state=1)
    )
    assert compare(made(A_BROKEN), shuffled).metrics == found.metrics
    with pytest.raises(UserError, match="share no test image"):
        compare(made(A_BROKEN), made(A_BROKEN, first=6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.2}, "eps 0.1 and 0.2"),
        ({"norm": "L2"}, "norm Linf and L2"),
        ({"attack_version": "custom x-2"}, "attack_version custom x-1 and custom x-2"),
        ({"attacks": ["apgd-ce"]}, "attacks"),
        ({"precision": "bf16"}, "precision float32 and bf16"),
        ({"data_sha256": "other"}, "different test sets"),
    ],
)
def test_unlike_protocols_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        compare(made(A_BROKEN), made(B_BROKEN, **change))


def test_without_attacks_the_threat_model_does_not_matter():
    a, b = made(["clean", None], attacks=[]), made([None, None], attacks=[], eps=0.3)
    assert list(compare(a, b).metrics) == ["clean"]


def test_clean_accuracies_on_all_images_and_on_some_drawn_at_random_are_not_compared():
    whole = made([None, None], attacks=[])
    drawn = made([None], attacks=[], attack_version="custom x-1 sequential", population=2)
    for pair in ((whole, drawn), (drawn, whole)):
        with pytest.raises(UserError, match=r"different protocols \(.*x-1 sequential"):
            compare(*pair)


def test_labels_that_differ_are_refused():
    damaged = made(B_BROKEN)
    damaged.verdicts.loc[3, "label"] += 1
    with pytest.raises(UserError, match="different labels"):
        compare(made(A_BROKEN), damaged)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({}, {"method": "mart"}, None),
        ({"config": {"params": {"x": 1}}}, {"method": "mart"}, None),
        ({}, {"config": {"training": {"epochs": 7}}}, None),
        (
            {},
            {"method": "mart", "config": {"training": {"epochs": 7}}},
            "more than the method: training.epochs 200 / 7",
        ),
        ({}, {"config": {"training": {"epochs": 7, "batch_size": 3}}}, "differ in 2 settings: "),
        ({}, {"config": {"seed": 3}}, "the seed only: their difference is random"),
        ({"model_sha256": "same"}, {"model_sha256": "same"}, "the same weights"),
        ({"seed": 1}, {"method": "mart", "seed": 2}, r"differ in seed \(1 / 2\)"),
    ],
)
def test_what_differs_beside_the_thing_compared_is_noted(a, b, message):
    notes = compare(made(A_BROKEN, **a), made(B_BROKEN, **b)).notes
    if message is None:
        assert notes == ()
    else:
        assert len(notes) == 1
        assert re.search(message, notes[0])


def runs(method: str, robust: Sequence[int]) -> list[Evaluated]:
    """A run of each seed, with so many robust images of 10."""
    return [
        made(["apgd-ce"] * (10 - right) + [None] * right, method=method, config={"seed": seed})
        for seed, right in enumerate(robust)
    ]


def test_seeds_are_summed_up_by_the_sample_deviation_and_welchs_interval():
    found = compare_seeds([runs("trades", [6, 7, 9]), runs("mart", [4, 4, 7])])
    values = [[0.6, 0.7, 0.9], [0.4, 0.4, 0.7]]
    for group, expected in zip(found.groups, values, strict=True):
        summary = group.metrics["robust"]
        mean = sum(expected) / 3
        std = math.sqrt(sum((value - mean) ** 2 for value in expected) / 2)
        assert summary.mean == pytest.approx(mean)
        assert summary.std == pytest.approx(std)
        half = t.ppf(0.975, 2) * std / math.sqrt(3)
        assert summary.low == pytest.approx(max(mean - half, 0))
        assert summary.high == pytest.approx(min(mean + half, 1))
    (difference,) = found.differences
    expected = ttest_ind(*values, equal_var=False)
    assert difference["robust"].p_value == pytest.approx(expected.pvalue)
    assert difference["robust"].low == pytest.approx(expected.confidence_interval().low)
    assert difference["clean"].difference == 0
    alone = compare_seeds([runs("trades", [6, 7]), runs("mart", [4])])
    assert alone.differences == ({},)
    assert "single seed" in alone.notes[-1]


def test_a_single_seed_has_no_interval():
    with pytest.raises(UserError, match="another seed"):
        welch([1.0], [1.0, 2.0])


@pytest.mark.parametrize("other", [0.5, 1.0])
def test_seeds_that_do_not_differ_cannot_be_tested(other):
    found = welch([1.0, 1.0], [other, other])
    assert found.difference == 1.0 - other
    assert all(math.isnan(value) for value in (found.low, found.high, found.p_value))


def test_what_cannot_be_tested_is_shown_as_a_dash():
    found = compare_seeds([runs("trades", [6, 6]), runs("mart", [4, 4])])
    *_, shown = seeds_blocks(found)
    assert shown.rows[-1] == ("robust", "+20.00", "-")
    (difference,) = to_json(found)["differences"]
    assert difference["robust"]["p_value"] is None


def stored(results: Path, evaluated: Evaluated, seed: int, **protocol: Any) -> str:
    """The evaluation as a run directory."""
    config = evaluated.run["config"] | {"seed": seed}
    run_id = f"{config['method']}-{seed}"
    run = RunDirectory.create(results, run_id)
    run.update(
        status="success", method=config["method"], dataset="digits", config=config,
        method_title=evaluated.run["method_title"],
    )  # fmt: skip
    protocol = dict(evaluated.protocol) | {"model_sha256": run_id} | protocol
    evaluation = run.evaluation(f"e{protocol['eps']}")
    rows = evaluated.verdicts.assign(
        clean_pred=0, target=None, adv_pred=0, distance=0.0, margin=0.0
    )
    table = pa.Table.from_pandas(rows, schema=VERDICT_SCHEMA, preserve_index=False)
    ended = f"2026-01-0{seed + 1}"
    broken, metrics = list(rows["broken_by"]), {}
    for stage in ("clean", *protocol["attacks"]):
        broken = [by for by in broken if by != stage]
        metrics[stage] = {"value": len(broken) / len(rows)}
    metrics["robust"] = metrics[stage]
    evaluation.update(status="success", protocol=protocol, metrics=metrics, finished_at=ended)
    write_verdicts(table, evaluation.verdicts_path)
    return run_id


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed in range(2):
        stored(tmp_path, made(A_BROKEN), seed)
        stored(tmp_path, made(A_BROKEN), seed, eps=0.3)
        stored(tmp_path, made(B_BROKEN, method="mart"), seed)
    return tmp_path


def output(results: Path, *arguments: str) -> str:
    ended = CliRunner().invoke(app, ["compare", *arguments, "--results", str(results)])
    if ended.exception:
        raise ended.exception
    return ended.stdout


def test_the_verb_prints_writes_and_answers_in_json(results, tmp_path):
    out = tmp_path / "found.md"
    text = output(results, "trades-0", "mart-0", "--out", str(out))
    assert "A: TRADES (trades-0)" in text
    assert "+16.67" in text
    assert "| A right | 1 | 2 |" in out.read_text()
    answer = json.loads(output(results, "trades-0", "mart-0", "--json"))["comparisons"][0]
    assert answer["metrics"]["robust"]["only_a"] == 2
    assert answer["protocol"]["eps"] == 0.1


def test_several_runs_are_seeds_or_rivals_of_the_first(results):
    runs = ["trades-0", "trades-1", "mart-0", "mart-1"]
    by_name = json.loads(output(results, *runs, "--json"))
    by_method = json.loads(output(results, "--method-a", "trades", "--method-b", "mart", "--json"))
    assert by_name == by_method
    assert [group["metrics"]["robust"]["n"] for group in by_name["groups"]] == [2, 2]
    assert by_name["groups"][0]["metrics"]["robust"]["mean"] == pytest.approx(3 / 6)
    stored(results, made(A_BROKEN, method="kl"), 0)
    rivals = json.loads(output(results, "trades-0", "mart-0", "kl-0", "--json"))["comparisons"]
    assert [each["b"] for each in rivals] == ["MART (mart-0)", "KL (kl-0)"]
    assert "not corrected for 2 comparisons" in output(results, "trades-0", "mart-0", "kl-0")


def test_a_damaged_run_is_named_beside_the_others(results):
    stored(results, made(A_BROKEN, method="trades"), 7)
    record = results / "runs" / "trades-7" / "run.json"
    record.write_text(record.read_text().replace('"dataset"', '"data set"'))
    methods = ["--method-a", "trades", "--method-b", "mart", "--json"]
    found = json.loads(output(results, *methods))
    assert [group["metrics"]["robust"]["n"] for group in found["groups"]] == [2, 2]
    (note,) = [note for note in found["notes"] if note.startswith("left out: ")]
    assert f"dataset in {record} is missing" in note


def test_a_run_or_a_method_counts_only_once(results):
    for repeated in (["trades-0", "mart-0", "trades-0"], ["trades-0", "trades-0", "mart-0"]):
        with pytest.raises(UserError, match="the run trades-0 is given more than once"):
            output(results, *repeated)
    with pytest.raises(UserError, match="the method trades is given more than once"):
        output(results, "--method-a", "trades", "--method-b", "trades")


def test_runs_without_a_shared_protocol_are_refused(results):
    with pytest.raises(UserError, match=r"share no protocol .*0\.3"):
        output(results, "trades-0@e0.3", "mart-0")
    with pytest.raises(UserError, match="no such finished evaluation"):
        output(results, "trades-0", "mart-0", "--eps", "0.3")
    with pytest.raises(UserError, match="--method-a and --method-b"):
        output(results, "--method-a", "trades")
    changed = made(A_BROKEN, config={"training": {"epochs": 3}})
    stored(results, changed, 5)
    with pytest.raises(UserError, match=r"differ in .*training\.epochs"):
        output(results, "--method-a", "trades", "--method-b", "mart")
