"""Sweeps: their runs, which of them are done, and how long the rest will take."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import distilling
import pytest

from divergence_bench.cli.sweep import compared, summaries, summary
from harness.config import RunConfig
from harness.errors import UserError
from harness.evaluation.attack.protocol import attack_version
from harness.experiment import estimate
from harness.experiment.resolve import resolve
from harness.experiment.runner import evaluate_run
from harness.experiment.sweep import (
    Item,
    SweepSpec,
    at_scale,
    find_evaluation,
    plan,
    read_spec,
    rows,
    run_missing,
)
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory

TINY = {
    **distilling.TINY,
    "evaluation.limit": 12,
    "evaluation.attacks": ["apgd-ce"],
    "evaluation.budget.n_iter": 5,
    "evaluation.workers": 1,
}
QUIET = Reporter(quiet=True)


def planned(results: Path, **spec: Any) -> list[Item]:
    found = rows(SweepSpec(**spec), {"results": results, "device": "cpu"})
    return estimate.with_estimates(plan(found), estimate.stored_timings(results))


# The runs of a sweep


def test_rows_that_are_the_same_run_are_planned_once(tmp_path):
    recipes = ("table1/ikl", "table2/ikl-a20-b3", "table6/ikl-a12-b3")
    items = planned(tmp_path, recipes=recipes)
    assert [item.names for item in items] == [recipes[:2], recipes[2:]]
    assert {item.state for item in items} == {"missing"}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_a_dataset_without_a_recipe_of_its_own_has_that_of_run(scale, tmp_path):
    (item,) = planned(tmp_path, methods=("kl",), dataset="svhn", scale=scale)
    expected = resolve("kl", dataset="svhn") if scale == "paper" else resolve("kl")
    assert item.config.run_id == expected.run_id
    assert item.config.recipe == expected.recipe


def test_a_pattern_has_a_row_for_each_of_its_recipes_and_a_seed_each(tmp_path):
    owned = {
        (method, recipe)
        for method in METHODS.names()
        for recipe in METHODS.get(method).recipes
        if recipe.startswith("table1/")
    }
    found = rows(SweepSpec(recipes=("table1/*",), seeds=(3, 5)), {"results": tmp_path})
    assert {(row.config.method, row.config.recipe) for row in found} == owned
    assert [row.config.seed for row in found] == [3, 5] * len(owned)


@pytest.mark.parametrize("method", METHODS.names())
def test_every_row_of_every_table_runs_at_small_scale(method):
    for recipe in METHODS.get(method).recipes:
        scaled, settings, _ = at_scale(method, recipe)
        assignments = [f"{path}={json.dumps(value)}" for path, value in settings.items()]
        config = resolve(method, recipe=scaled, assignments=assignments)
        small = resolve(method, recipe="digits")
        assert (config.data, config.model) == (small.data, small.model)
        assert config.training.epochs == small.training.epochs
        assert config.evaluation == small.evaluation
        if config.training.attack and small.training.attack:
            assert config.training.attack.eps == pytest.approx(small.training.attack.eps, rel=0.1)


def test_a_small_row_keeps_the_printed_parameters_and_its_switches():
    _, settings, _ = at_scale("ikl", "table6/ikl-a12-b3")
    assert settings == {"params.wmse_weight": 12.0}
    # Table 4 leaves the KL term out and uses a larger network, which is a change of size.
    _, settings, left_out = at_scale("lbgat", "table4/lbgat")
    assert settings == {"params.kl_weight": 0.0}
    assert left_out == ("model.arch",)
    # The row on generated images trains differently from the dataset's recipe.
    _, settings, left_out = at_scale("ikl", "table2/ikl-1m")
    assert settings["training.optimizer.schedule"] == "onecycle"
    assert settings["training.weight_perturbation.gamma"] == 0
    assert "data.generated_fraction" in left_out


def test_radii_and_epochs_keep_their_share(monkeypatch):
    method = METHODS.get("trades")
    row = {
        "data": {"name": "cifar10"},
        "training": {
            "epochs": 60,
            "attack": {"eps": 4 / 255, "step_size": 1 / 255},
            "optimizer": {"milestones": (20, 40)},
        },
        "evaluation": {"eps": 8 / 255},
    }
    monkeypatch.setitem(method.recipes, "row", lambda: row)
    _, settings, _ = at_scale("trades", "row")
    assert settings["training.attack.eps"] == pytest.approx(0.075)
    assert settings["training.attack.step_size"] == pytest.approx(0.15 / 8)
    epochs = resolve("trades").training.epochs
    assert settings["training.optimizer.milestones"] == [epochs / 3, 2 * epochs / 3]


# Errors in a sweep file


# Ten lists, each of ten references to the one before: ten billion values in 400 bytes.
ALIASES = "methods: [kl]\nset:\n  a0: &a0 [0]\n" + "".join(
    f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metods: [kl]", "unknown setting 'metods': did you mean methods"),
        ("runs:\n- {metod: kl}", "unknown setting 'runs.0.metod': did you mean runs.method"),
        ("methods: [kll]", "unknown method 'kll': did you mean kl"),
        ("methods: [kl]\nset: {training.epoch: 3}", "did you mean training.epochs"),
        ("methods: [kl]\nseeds: many", "seeds"),
        ("methods: [kl]\nscale: tiny", "scale"),
        ("seeds: 2", "a sweep needs runs"),
        ("recipes: [table77/*]", "no recipe matches 'table77/*'"),
        ("- kl", "not a mapping"),
        ("methods: [kl", "not valid YAML"),
        ("set: {a: 1}\nmethods: [kl]\nset: {b: 2}", "set is given twice, in lines 1 and 3: leave"),
        ("methods: [kl]\nset:\n  training.epochs: 2\n  training.epochs: 3", "in lines 3 and 4"),
        ("runs:\n- {method: kl, name: a, name: b}", "name is given twice, in lines 2 and 2"),
        ("methods: [kl]\nset: {training.optimizer.lr: .inf}", "should be a finite number"),
        ("methods: [kl]\nseeds: 100000000", "give a number of seeds in 1..1000, or a list"),
        ("methods: [kl]\nseeds: 0", "give a number of seeds in 1..1000, or a list"),
        ("methods: [kl]\nset: {method: ikl}", "method=ikl cannot be a setting"),
        ("methods: [kl]\nset: {a: 2026-13-45}", "not valid YAML: month must be in 1..12"),
        ("methods: " + "[" * 2000, "not valid YAML"),
        ("seeds: !!bool maybe", "fit its tag, such as `!!bool maybe` (KeyError: 'maybe'): leave"),
        ('seeds: !!int ""', "a value that does not fit its tag"),
        ("seeds: !!timestamp foo", "a value that does not fit its tag"),
        ("!!map [a, b]", "a value that does not fit its tag"),
        (ALIASES, "expands to more than 100000 values: shorten it"),
        ("methods: [kl]\nset: &s {a: *s}", "expands to more than 100000 values: shorten it"),
    ],
)
def test_a_mistake_in_a_file_is_named(text, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        rows(read_spec(path, SweepSpec))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_be_in_an_encoding_of_windows(encoding, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_bytes("methods: [kl]\r\nset: {training.epochs: 2}\r\n".encode(encoding))
    (row,) = rows(read_spec(path, SweepSpec))
    assert row.config.training.epochs == 2


def test_a_runs_settings_lie_over_those_of_all(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "methods: [kl]\nset: {training.epochs: 3}\nseeds: 2\n"
        "runs:\n- {method: ikl, name: short, set: {training.epochs: 1}}\n"
    )
    found = rows(read_spec(path, SweepSpec))
    assert [(row.name, row.config.training.epochs, row.config.seed) for row in found] == [
        ("kl", 3, 0), ("kl", 3, 1), ("short", 1, 0), ("short", 1, 1),
    ]  # fmt: skip


# Finished runs, and how long the rest will take


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished sweep in which one run cannot start, and the names of the failed runs."""
    results = tmp_path_factory.mktemp("swept")
    runs = (
        {"method": "trades"},
        {"method": "kl", "name": "no-data", "set": {"data.name": "cifar10", "data.root": "/no"}},
        {"method": "pgd-at"},
    )
    items = planned(results, runs=runs, set=TINY)
    failures = run_missing(items, QUIET)
    return results, [failure.run_id for failure in failures]


def test_a_run_that_cannot_start_is_recorded_and_the_others_go_on(swept):
    results, failed = swept
    stored = (
        Database(results).query("SELECT run_id, method, status, error FROM runs").to_dict("list")
    )
    states = dict(zip(stored["method"], stored["status"], strict=True))
    assert states == {"trades": "success", "pgd-at": "success", "kl": "error"}
    (run_id,) = failed
    assert "/no" in str(RunDirectory(results, run_id).record["error"])


def test_a_run_that_another_process_has_just_begun_is_not_recorded_as_failed(tmp_path):
    """That process has the lock, but its record may not exist yet."""
    items = planned(tmp_path, methods=("vanilla",), set=TINY)
    directory = RunDirectory.create(tmp_path, items[0].config.run_id)
    with directory.lock():
        (failure,) = run_missing(items, QUIET)
    assert "another process is working on run" in failure.error
    assert not directory.exists


def test_estimates_come_from_similar_runs(swept):
    results, _ = swept
    done, seed, other, more, attacks, budget, radii, shared = planned(
        results,
        set=TINY,
        runs=(
            {"method": "trades"},
            {"method": "trades", "set": {"params.kl_weight": 2.0}},
            {"method": "mart"},
            {"method": "trades", "set": {"training.epochs": 4}},
            {"method": "trades", "set": {"evaluation.attacks": ["square"], "seed": 9}},
            {"method": "trades", "set": {"evaluation.budget.n_iter": 9, "seed": 9}},
            {"method": "trades", "set": {"evaluation.eps": [0.1, 0.15], "seed": 9}},
            {
                "method": "trades",
                "set": {"evaluation.workers": 2, "evaluation.chunk_size": 6, "seed": 9},
            },
        ),
    )
    assert (done.state, done.seconds) == ("done", 0.0)
    assert seed.seconds > 0
    assert (seed.whole, seed.alike) == (True, True)
    assert other.seconds > 0
    assert (other.whole, other.alike) == (True, False)
    epochs = Database(results).query(
        "SELECT median(seconds) AS s FROM epochs JOIN runs USING (run_id) WHERE method = 'trades'"
    )["s"][0]
    assert more.seconds == pytest.approx(seed.seconds + 2 * epochs)
    # An evaluation of 12 images under the same attacks takes as long as the stored one.
    image = Database(results).query(
        "SELECT median(e.wall_s / e.n) AS s FROM evaluations e JOIN runs r USING (run_id) "
        "WHERE r.method = 'trades' AND e.n = 12"
    )["s"][0]
    assert seed.seconds == pytest.approx(2 * epochs + 12 * image)
    assert radii.seconds == pytest.approx(2 * epochs + 2 * 12 * image)
    assert shared.seconds == pytest.approx(2 * epochs + 6 * image)
    begun = dataclasses.replace(seed, state="partial", epochs=1)
    attacked = dataclasses.replace(begun, epochs=2, chunks=1)
    left = estimate.with_estimates([begun, attacked], estimate.stored_timings(results))
    assert [each.seconds for each in left] == pytest.approx([epochs + 12 * image, 0])
    # No similar evaluation is stored, so only the training time is known.
    for unlike in (attacks, budget):
        assert unlike.seconds == pytest.approx(2 * epochs)
        assert not unlike.whole
    assert "at least" in summary([attacks])
    (unknown,) = planned(results, methods=("vanilla",))
    assert unknown.seconds is None
    assert "unknown" in summary([unknown])


def test_rows_are_compared_with_the_first_image_by_image(swept):
    results, _ = swept
    items = planned(results, methods=("trades", "pgd-at"), set=TINY)
    ((a, b, seed, paired),) = compared(items)
    assert (a, b, seed, paired.n) == ("pgd-at", "trades", 0, 12)
    right = []
    for item in items:
        evaluation = find_evaluation(RunDirectory(results, item.config.run_id), item.config)
        assert evaluation is not None
        right.append(evaluation.record["metrics"]["robust"]["value"])
    assert paired.difference == pytest.approx(right[1] - right[0])


def test_another_protocol_of_a_finished_run_is_missing_work(swept):
    results, _ = swept
    (item,) = planned(results, methods=("trades",), set={**TINY, "evaluation.eps": 0.05})
    assert (item.state, item.epochs, item.chunks) == ("partial", 2, 0)


def test_a_sequential_evaluation_is_done_once_it_is_long_enough(swept):
    results, _ = swept
    drawn = {**TINY, "evaluation.order": "random", "evaluation.limit": None}
    drawn |= {"evaluation.chunk_size": 18, "evaluation.n_max": 18}
    (item,) = planned(results, methods=("trades",), set=drawn)
    assert item.state == "partial"
    directory = RunDirectory(results, item.config.run_id)
    evaluate_run(directory, item.config.evaluation, None, "cpu", QUIET)
    (item,) = planned(results, methods=("trades",), set=drawn)
    assert item.state == "done"
    for more in ({"evaluation.n_max": 36}, {"evaluation.save_adversarial": "uint8"}):
        (longer,) = planned(results, methods=("trades",), set=drawn | more)
        assert longer.state == "partial"
    # The newest evaluation is of another protocol; the sweep shows its own, and so does the run.
    (usual,) = planned(results, methods=("trades",), set=TINY)
    for done, n in ((usual, 12), (item, 18)):
        (shown,) = summaries([done])
        numbers = [number for row in shown.table.rows for number in row.cell("clean").numbers]
        assert {number.n for number in numbers} == {n}
    own = directory.own_evaluation()
    assert own is not None
    assert own.record["protocol"]["n"] == 12


def test_of_several_evaluations_the_finished_one_counts(tmp_path):
    (item,) = planned(tmp_path, methods=("trades",), set=TINY)
    config = item.config
    run = RunDirectory.create(config.results, config.run_id)
    run.update(method="trades")
    run.model_path.touch()
    identity = config.evaluation.identity_payload()

    def state() -> tuple[str | None, str, int]:
        found = find_evaluation(run, config)
        (item,) = plan(rows(SweepSpec(methods=("trades",), set=TINY), {"results": tmp_path}))
        return found and found.evaluation_id, item.state, item.chunks

    def stored(name: str, status: str, chunks: int, **protocol: Any) -> None:
        evaluation = run.evaluation(name)
        stored_protocol = {
            **identity, "n": 12, "attack_version": version(config), "standard": False,
            "data_sha256": "2" * 64, "model_sha256": "3" * 64, **protocol,
        }  # fmt: skip
        names = ("clean", "robust", *identity["attacks"])
        evaluation.update(
            status=status,
            protocol=stored_protocol,
            metrics={key: {"value": 0.5} for key in names},
            finished_at="2026-01-01T00:00:00+00:00",
        )
        evaluation.chunks_path.mkdir()
        for number in range(chunks):
            evaluation.chunk_path(number).touch()

    assert state() == (None, "partial", 0)
    stored("a", "cancelled", 0)
    stored("b", "error", 2)
    stored("c", "cancelled", 1)
    assert state() == ("b", "partial", 2)
    # `evaluate` would not resume an evaluation with another version of the attacks.
    stored("d", "success", 3, attack_version="custom(apgd-ce) pyautoattack-0.0.1")
    assert state() == ("b", "partial", 2)
    stored("e", "success", 1)
    assert state() == ("e", "done", 1)
    run.model_path.unlink()
    assert state() == ("e", "partial", 1)


def version(config: RunConfig) -> str:
    """The current attack version of a run."""
    return attack_version(config.evaluation.protocols()[0], 10)
