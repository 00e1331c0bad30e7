"""Commands on a run's page: what they name is the run, the model or the evaluation shown."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import divergence_bench as bench
from app import commands, queries
from harness.config import EvalConfig, EvalProtocol
from harness.errors import UserError
from harness.experiment.resolve import evaluation
from harness.models import build_model
from harness.store.database import Database
from harness.store.rundir import RunDirectory, list_runs
from tests.app.test_pages import words

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
BUDGET = {"n_iter": 20, "n_restarts": 1, "n_queries": 5000, "n_target_classes": 9}
RANDOM = {"order": "random", "population": 360, "partial": True, "attacks": ["apgd-ce"]}
CLEAN = ["--attacks", "none", "--results", "r"]
MODULE = """
from harness.models import build_model

def network():
    return build_model("resnet8", 10, 1, 8)
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="plan")
def _plan(call: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Plans a run by the words of its command, without the checks that read images and weights."""
    monkeypatch.setattr("divergence_bench.preflight.check", lambda *_, **__: None)
    return lambda words_of: json.loads(call(*words_of, "--dry-run", "--json").out)


def arguments(command: str | None) -> list[str]:
    """The words after ``python -m harness``."""
    assert command is not None
    python, *words_of = shlex.split(command)
    assert (python, words_of[:2]) == ("python", ["-m", "harness"])
    return words_of[2:]


def shown(results: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The only run of a folder and its main evaluation, as the page has them."""
    (run,) = list_runs(results)
    database = Database(results)
    return queries.run(database, run.run_id), queries.evaluations(database, run.run_id)[0]


def repeated(results: Path) -> str | None:
    return commands.repeat(*shown(results))


def reference_runs() -> list[dict[str, Any]]:
    """The reference runs as ``queries.run`` returns them, one of each method and recipe."""
    rows = [
        row for path in REFERENCE.glob("*/runs.parquet") for row in pq.read_table(path).to_pylist()
    ]
    runs = {(row["method"], row["recipe"], row["arch"]): row for row in rows}
    return [row | {"config": json.loads(row["config"])} for row in runs.values()]


def test_the_command_of_a_reference_run_names_this_run(plan) -> None:
    runs = reference_runs()
    assert len(runs) > 50
    for run in runs:
        command = commands.repeat(run, None)
        planned = plan(arguments(command))
        assert planned["run_id"] == run["run_id"], command
        again = EvalConfig.model_validate(planned["config"]["evaluation"])
        own = EvalConfig.model_validate(run["config"]["evaluation"])
        # The number of processes is the reader's choice.
        assert again == own.model_copy(update={"workers": again.workers}), command


def test_a_shown_command_names_the_folder_shown(open_page, store_run, tmp_path) -> None:
    typed = {"argv": ["sweep", "acat-fast.yaml", "--results", "adv_results"]}
    run_id = store_run(tmp_path, "ikl", "IKL-AT", config_passed=typed)
    command = open_page("run", tmp_path, run=run_id).code[0].value
    assert command.startswith("python -m harness run --method ikl --recipe digits ")
    assert command.endswith(f" --results {tmp_path}")
    assert command.count("--results") == 1


def test_the_images_folder_is_the_runs_own_if_it_is_here_else_the_apps(
    monkeypatch, tmp_path
) -> None:
    run = next(each for each in reference_runs() if each["config"]["data"]["root"] == "data")
    assert "--data-root" not in str(commands.repeat(run, None))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert f" --data-root {tmp_path}" in str(commands.repeat(run, None))
    Path("data").mkdir()
    assert " --data-root data" in str(commands.repeat(run, None))


def test_a_run_of_several_radii_with_another_teacher_is_named(plan, tmp_path) -> None:
    weights = tmp_path / "teacher.pt"
    torch.save(build_model("resnet14", 10, 1, 8).state_dict(), weights)
    typed = ["run", "--method", "kd", "--teacher", str(weights), "--teacher-arch", "resnet14"]
    typed += ["--eps", "0,2/255,0.05", "--attacks", "fast"]
    first = plan(typed)
    run = {"kind": "trained", "recipe": "digits", "config": first["config"]}
    command = commands.repeat(run, None)
    assert "teacher.weights" not in str(command)
    assert "evaluation.eps=0,2/255,0.05" in str(command)
    again = plan(arguments(command))
    assert again["run_id"] == first["run_id"]
    assert again["config"]["evaluation"] == first["config"]["evaluation"]


def test_a_run_of_an_unknown_method_has_no_command(open_page, store_run, tmp_path) -> None:
    run_id = store_run(tmp_path, "mine", "Mine")
    text = words(open_page("run", tmp_path, run=run_id))
    assert "There is none: this release does not have its method, recipe or settings." in text


def test_an_evaluation_with_settings_of_a_later_release_has_no_command(
    open_page, store_run, tmp_path
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT")
    run = RunDirectory(tmp_path, run_id)
    config = run.record["config"]
    run.update(config=config | {"evaluation": config["evaluation"] | {"later": 1}})
    Database(tmp_path).record(run)
    for path in tmp_path.rglob("*.adversarial.npy"):
        path.unlink()
    text = words(open_page("run", tmp_path, run=run_id))
    assert "no command that makes them again: this release does not have its settings." in text
    assert "a logged warning" in text
    assert "python -m harness" not in text


def test_a_loaded_model_under_a_protocol_of_a_later_release_has_no_command(tmp_path) -> None:
    run = {"kind": "loaded", "dataset": "digits", "config": {}, "provenance": {}}
    run["source"] = {"source": "weights.pt", "arch": "resnet8"}
    later = {"protocol": json.dumps({"norm": "Linf", "eps": 0.1, "attacks": ["later"]})}
    assert commands.repeat(run, None) is not None
    assert commands.repeat(run, later) is None
    with pytest.raises(UserError, match="later"):
        commands.keep_images(run, later, tmp_path)


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet8", 10, 1, 8)


def test_a_loaded_file_is_loaded_again_with_its_options(call) -> None:
    torch.save({name: network(seed).state_dict() for seed, name in enumerate("ab")}, "weights.pt")
    how = ["--arch", "resnet8", "--weights-key", "b", "--normalize", "dataset"]
    given = ("evaluate", "weights.pt", *how, "--dataset", "digits", "--eval-limit", "20", *CLEAN)
    assert call(*given).status == 0
    check_the_same_is_evaluated(call, repeated(Path("r")))


def test_a_file_loaded_in_python_is_loaded_again(call) -> None:
    torch.save(network(0).state_dict(), "weights.pt")
    how = {"arch": "resnet8", "normalize": ((0.3,), (0.2,)), "attacks": "none", "n": 20}
    bench.evaluate("weights.pt", "digits", **how, results="r", quiet=True)
    check_the_same_is_evaluated(call, repeated(Path("r")))


def test_a_function_evaluated_in_python_is_loaded_again_with_its_weights(call, monkeypatch) -> None:
    torch.save({"kept": network(1).state_dict(), "other": network(2).state_dict()}, "weights.pt")
    Path("networks_of_commands.py").write_text(MODULE)
    monkeypatch.syspath_prepend(".")
    how = {"weights": "weights.pt", "weights_key": "kept", "attacks": "none", "n": 20}
    bench.evaluate("networks_of_commands:network", "digits", **how, results="r", quiet=True)
    check_the_same_is_evaluated(call, repeated(Path("r")))


def test_a_function_on_images_drawn_at_random_is_evaluated_again(call, monkeypatch) -> None:
    torch.save(network(0).state_dict(), "weights.pt")
    Path("networks_of_commands.py").write_text(MODULE)
    monkeypatch.syspath_prepend(".")
    how = ["--weights", "weights.pt", "--normalize", "dataset", "--n-max", "36"]
    how += ["--attacks", "apgd-ce", "--budget", "n_iter=1", "--results", "r"]
    given = ("evaluate", "networks_of_commands:network", "--dataset", "digits", *how)
    assert call(*given).status == 0
    check_the_same_is_evaluated(call, repeated(Path("r")))
    run, main_one = shown(Path("r"))
    check_the_same_is_evaluated(call, commands.keep_images(run, main_one, Path("r")))
    assert len(list(Path("r").rglob("*.adversarial.npy"))) == 2


def check_the_same_is_evaluated(call: Callable, command: str | None) -> None:
    """The command, with the folder r, adds no run and no evaluation to the one that is there."""
    (before,) = Path("r").glob("runs/*/evaluations/*")
    assert call(*arguments(command), "--results", "r").status == 0
    assert list(Path("r").glob("runs/*/evaluations/*")) == [before]


def test_an_object_of_python_has_no_command(open_page, tmp_path) -> None:
    model = build_model("resnet8", 10, 1, 8)
    how = {"attacks": ["apgd-ce"], "budget": {"n_iter": 1}, "n": 10, "quiet": True}
    found = bench.evaluate(model, "digits", name="mine", **how, results=tmp_path)
    text = words(open_page("run", tmp_path, run=found.run_id))
    assert "its model or its images were objects in Python, or this release does not have" in text
    assert 'call `evaluate` there again with `save_adversarial="uint8"`' in text
    assert "python -m harness" not in text


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        ({}, {"eps": 2 / 255}),
        ({"eps": [2 / 255, 0.1]}, {}),
        ({"eps": 0.15}, {"norm": "L2"}),
        ({"eps": 0.15, "attacks": "standard"}, {"budget": BUDGET}),
        ({"eps": 0.15, "budget": BUDGET, "limit": 500}, {"attacks": ["apgd-ce"]}),
        ({"eps": 0.15, "limit": 500}, RANDOM),
    ],
    ids=["radius", "curve", "norm", "budget", "standard budget", "sequential"],
)
def test_images_are_made_again_under_the_protocol_of_their_evaluation(
    store_run, store_evaluation, tmp_path, own, changes
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT", evaluation=EvalConfig(**own))
    run = RunDirectory(tmp_path, run_id)
    store_evaluation(run, 1, keep_images=False, name="other", **changes)
    Database(tmp_path).record(run)
    found = queries.evaluations(Database(tmp_path), run_id)
    (other,) = [each for each in found if each["evaluation_id"] == "other"]
    command = commands.keep_images(queries.run(Database(tmp_path), run_id), other, tmp_path)
    verb, source, *options = arguments(command)
    assert (verb, source, options[-2:]) == ("evaluate", run_id, ["--save-adversarial", "uint8"])
    given = [options[place + 1] for place, word in enumerate(options) if word == "--set"]
    config = evaluation(run.record["config"]["evaluation"], {}, given)
    recorded = run.evaluation("other").record["protocol"]
    fields = {name: recorded[name] for name in EvalProtocol.model_fields if name in recorded}
    (made,) = config.protocols()
    expected = EvalProtocol.model_validate(fields).identity_payload(complete=True)
    assert made.identity_payload(complete=True) == expected
    assert config.n_max == (recorded["n"] if changes is RANDOM else None)
