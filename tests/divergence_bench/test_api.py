"""The Python API on digits: what it stores is what the command line, the tables and the app see."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import divergence_bench as bench
from app import queries
from harness.data import load_dataset
from harness.errors import UserError
from harness.models import build_model
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from leaderboards.build import small
from leaderboards.summary import run_summary

ROOT = Path(bench.__file__).parents[1]
FAST: dict[str, Any] = {"attacks": ["apgd-ce"], "budget": {"n_iter": 3}, "quiet": True}


def network(channels: int = 1, classes: int = 10) -> nn.Module:
    """The nearest class mean of digits for the first channel, as a linear model."""
    train = load_dataset("digits", splits=("train",)).train
    images = train.images_float()[:, 0].flatten(1)
    means = torch.stack([images[train.labels == label].mean(0) for label in range(10)])
    linear = nn.Linear(channels * 64, classes)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[:10, :64] = 4 * means
        linear.bias.fill_(-100)
        linear.bias[:10] = -2 * means.square().sum(1)
    return nn.Sequential(nn.Flatten(), linear)


def digits(n: int = 40) -> tuple[Tensor, Tensor]:
    test = load_dataset("digits", splits=("test",)).test
    return test.images_float(slice(n)), test.labels[:n]


def accuracy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).double().mean().item()


def test_a_module_is_stored_like_any_run(tmp_path: Path, call) -> None:
    model = network().train()
    result = bench.evaluate(model, "digits", eps=0.05, n=40, name="mine", results=tmp_path, **FAST)
    assert model.training
    images, labels = digits()
    assert result.clean.value == accuracy(model, images, labels)
    assert result.robust.value < result.clean.value
    assert result.robust.n == 40
    assert re.fullmatch(r"0\.\d{4} \[0\.\d{3}, 0\.\d{3}\] \(n=40\)", str(result.robust))
    broken = result.verdicts["broken_by"].notna()
    assert result.robust.value == 1 - broken.mean()
    (row,) = json.loads(call("list", "runs", "--results", str(tmp_path), "--json").out)
    assert row["run"] == result.run_id
    (stored,) = bench.results(tmp_path).to_dict("records")
    assert (stored["name"], stored["run_id"], stored["robust"]) == (
        "mine",
        result.run_id,
        result.robust.value,
    )
    summary = run_summary(tmp_path, result.run_id, result.evaluation_id)
    assert "mine" in json.dumps(summary.to_json())
    (shown,) = queries.comparable(Database(tmp_path)).to_dict("records")
    assert (shown["run_id"], shown["title"]) == (result.run_id, "mine")
    again = bench.evaluate(model, "digits", eps=0.05, n=40, name="mine", results=tmp_path, **FAST)
    assert (again.evaluation_id, again.metrics) == (result.evaluation_id, result.metrics)
    assert result.stored_at is None
    assert again.stored_at is not None
    assert again.stored_at in str(again)


def test_other_weights_code_or_answers_are_another_run(tmp_path: Path) -> None:
    def run_id(model: nn.Module | Callable[[Tensor], Tensor]) -> str:
        return bench.evaluate(
            model, "digits", attacks="none", n=5, results=tmp_path, quiet=True
        ).run_id

    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module, factor: float) -> None:
            super().__init__()
            self.inner = inner
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).pow(2) * self.factor

    base = network()
    same = run_id(base)
    assert run_id(network()) == same
    scaled = {run_id(Scaled(base, factor)) for factor in (1.0, -1.0)}
    function = run_id(lambda x: base(x))
    assert run_id(lambda x: base(x) - 0) != function
    with torch.no_grad():
        base[1].bias.add_(torch.arange(10) / 10)
    assert len({same, function, run_id(base), *scaled}) == 5


@pytest.mark.parametrize(
    ("kind", "channels"), [("tensor", 3), ("array", 1), ("bytes", 3), ("dataset", 1)]
)
def test_images_and_labels_of_ones_own(kind: str, channels: int, tmp_path: Path) -> None:
    images, labels = digits()
    images = images.repeat(1, channels, 1, 1)
    expected = accuracy(network(channels), images, labels)
    data: Any = {
        "tensor": (images, labels),
        "array": (images.numpy().astype(np.float64), labels.numpy()),
        "bytes": ((images * 255).round().byte(), labels),
        "dataset": torch.utils.data.TensorDataset(images, labels),
    }[kind]
    model = network(channels)
    result = bench.evaluate(model, data, eps=0.05, results=tmp_path, **FAST)
    assert result.clean.value == expected
    assert list(result.verdicts["label"]) == labels.tolist()
    assert run_summary(tmp_path, result.run_id, result.evaluation_id).to_json()["rows"]


def test_several_radii_are_a_curve_and_the_result_is_the_largest(tmp_path: Path) -> None:
    radii = [0.02, "16/255"]
    result = bench.evaluate(network(), "digits", eps=radii, n=20, results=tmp_path, **FAST)
    assert result.protocol["eps"] == 16 / 255
    assert sorted(bench.results(tmp_path)["eps"]) == [0.02, 16 / 255]


def test_normalisation_is_put_in_front(tmp_path: Path) -> None:
    images, labels = digits()
    inner = network()
    shifted = lambda x: inner(x * 0.25 + 0.5)  # noqa: E731
    plain = {"attacks": "none", "results": tmp_path, "quiet": True}
    result = bench.evaluate(shifted, (images, labels), normalize=([0.5], [0.25]), **plain)
    assert result.clean.value == accuracy(inner, images, labels)
    text = bench.evaluate(shifted, (images, labels), normalize="0.5;0.25", **plain)
    assert text.run_id == result.run_id
    assert bench.evaluate(shifted, (images, labels), **plain).run_id != result.run_id


def tuple_output(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (tuple_output, "digits", "logits"),
        (network().half(), "digits", "float16"),
        (network().to(torch.bfloat16), "digits", "bfloat16"),
        (network(classes=12), "digits", "12 classes"),
        (network(3), "digits", "digits images of 1x8x8"),
        (network(), (torch.rand(4, 1, 8, 9), torch.arange(4)), "square"),
        (network(), (torch.rand(4, 1, 8, 8) + 1, torch.arange(4)), r"not in \[0, 1\]"),
        (network(), (torch.rand(4, 1, 8, 8), torch.arange(3)), "4 images and 3 labels"),
        (network(), (torch.rand(4, 1, 8, 8), torch.arange(4) + 8), "label 10 .* outside"),
        (network(), 5, "give the name of a dataset"),
        (network(), {"images": 5}, "give the name of a dataset"),
        (network(), ([[0.5], [0.5, 0.5]], [0, 1]), r"images cannot be made a tensor \(ValueError"),
        (network(), (torch.rand(2, 1, 8, 8), [0, [1]]), "labels cannot be made a tensor"),
        (network(), [(torch.rand(1, size, size), 0) for size in (4, 8, 8)], "of one size"),
        (network(), [1, 2, 3], "the list does not hold pairs of an image and its class"),
        (None, "digits", "the model is of type NoneType: give an nn.Module, or a function"),
        (5, "digits", "the model is of type int"),
        (lambda x: x / None, "digits", r"cannot take digits images of 1x8x8 \(TypeError"),
        (network(), "digit", "did you mean digits"),
        ("nothing", "digits", "nothing"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_sentence(
    model: Any, data: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        bench.evaluate(model, data, eps=0.1, results=tmp_path, quiet=True)
    assert not list(tmp_path.rglob("verdicts.parquet"))


def test_a_run_from_python_and_from_the_command_line_is_one_run(tmp_path: Path, call) -> None:
    settings: dict[str, Any] = {
        "epochs": 1,
        "train_limit": 64,
        "seed": 3,
        "attacks": "none",
        "n": 20,
    }
    settings |= {"params": {"kl_weight": 2.0}}
    result = bench.train("trades", "digits", results=tmp_path, quiet=True, **settings)
    ended = call(
        *"run --method trades --epochs 1 --train-limit 64 --seed 3 --attacks".split(),
        "",
        *"--eval-limit 20 --set params.kl_weight=2 --dry-run --json --results".split(),
        str(tmp_path),
    )
    assert json.loads(ended.out)["run_id"] == result.run_id
    model = bench.load_model(result.run_id, results=tmp_path)
    images, labels = digits(20)
    assert result.clean.value == accuracy(model, images, labels)
    again = bench.evaluate(result.run_id, "digits", n=20, eps=0.1, results=tmp_path, **FAST)
    assert again.run_id == result.run_id
    assert again.evaluation_id != result.evaluation_id


def test_settings_of_other_types_are_recorded_as_text(tmp_path: Path) -> None:
    settings = {"root": tmp_path, "seed": np.int64(3), "lr": np.float32(0.5), "epochs": 1}
    plain: dict[str, Any] = {"train_limit": 64, "attacks": "none", "n": 20, "quiet": True}
    result = bench.train("vanilla", "digits", results=tmp_path, **settings, **plain)
    record = RunDirectory(tmp_path, result.run_id).record
    assert (record["seed"], record["config"]["training"]["optimizer"]["lr"]) == (3, 0.5)
    passed = record["config_passed"]["python"]
    assert (passed["root"], passed["lr"], passed["epochs"]) == (str(tmp_path), "0.5", 1)


def test_comparing_two_results_is_paired(tmp_path: Path) -> None:
    worse = network()
    with torch.no_grad():
        worse[1].weight[3:].zero_()
    a, b = (
        bench.evaluate(model, "digits", eps=0.02, n=40, results=tmp_path, **FAST)
        for model in (network(), worse)
    )
    found = bench.compare(a, b)
    difference = a.robust.value - b.robust.value
    assert found.metrics["robust"].difference == pytest.approx(difference)
    assert found.metrics["robust"].p_value < 0.05
    assert bench.compare(a.run_id, b.run_id, results=tmp_path).metrics == found.metrics
    assert bench.compare(a, b.run_id).metrics == found.metrics
    moved = tmp_path / "moved"
    other = bench.evaluate(worse, "digits", eps=0.02, n=40, results=moved, **FAST)
    assert bench.compare(a, other).metrics == found.metrics
    assert bench.compare(a, other.run_id, results=moved).metrics == found.metrics


def test_a_run_is_evaluated_with_its_own_settings_on_all_images(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluation.seed": 1, "evaluation.chunk_size": 50}
    settings |= {"evaluation.budget.n_iter": 2, "data.train_limit": 64, "attacks": ["apgd-ce"]}
    where: dict[str, Any] = {"results": tmp_path, "quiet": True}
    trained = bench.train("vanilla", "digits", epochs=1, n=20, **where, **settings)
    whole = bench.evaluate(trained.run_id, "digits", **where)
    found = RunDirectory(tmp_path, whole.run_id).evaluation(whole.evaluation_id).record["protocol"]
    assert [found[name] for name in ("seed", "chunk_size", "n")] == [1, 50, 360]
    assert found["budget"]["n_iter"] == 2


def test_a_loaded_dataset_has_its_customary_radius(tmp_path: Path) -> None:
    data = load_dataset("digits", splits=("test",))
    result = bench.evaluate(network(), data, n=20, results=tmp_path, **FAST)
    record = RunDirectory(tmp_path, result.run_id).evaluation(result.evaluation_id).record
    assert record["protocol"]["eps"] == data.info.default_eps


def test_a_method_object_is_trained_under_its_title(tmp_path: Path) -> None:
    plain = METHODS.get("vanilla")
    method = replace(plain, card=replace(plain.card, title="My plain loss"))
    settings = {"epochs": 1, "train_limit": 64, "attacks": "none", "n": 20, "quiet": True}
    result = bench.train(method, "digits", results=tmp_path, **settings)
    assert result.run_id.startswith("my-plain-loss-")
    assert "my-plain-loss" in bench.methods()


def test_results_on_other_datasets_are_in_the_table_of_small_runs(tmp_path: Path) -> None:
    images, labels = digits()
    bench.evaluate(network(), (images, labels), eps=0.05, name="mine", results=tmp_path, **FAST)
    labels_of_rows = [row.labels for row in small(tmp_path)[0].rows]
    assert any("mine" in label for row in labels_of_rows for label in row)


def test_the_page_about_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 7
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)


def test_importing_the_package_is_light_and_public_names_are_there() -> None:
    code = "import divergence_bench as b, sys; print(len(b.__all__), 'torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.split() == [str(len(bench.__all__)), "False"]
    assert all(hasattr(bench, name) for name in bench.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        bench.nothing  # noqa: B018


def test_an_argument_without_effect_or_of_another_type_is_refused(tmp_path):
    options = {"attacks": "none", "n": 5, "results": tmp_path, "quiet": True}
    with pytest.raises(UserError, match="arch given, but the model is a module or a function"):
        bench.evaluate(network(), "digits", arch="resnet8", **options)
    with pytest.raises(UserError, match="name is of type int: give text"):
        bench.evaluate(network(), "digits", name=5, **options)
    run = bench.train("vanilla", "digits", epochs=1, train_limit=64, **options)
    for argument in ({"normalize": "dataset"}, {"name": "other"}, {"arch": "resnet8"}):
        with pytest.raises(UserError, match=f"{next(iter(argument))} given, but {run.run_id}"):
            bench.evaluate(run.run_id, "digits", **argument, **options)


MODULE = """
import torch
from harness.models import build_model

def make():
    torch.manual_seed(0)
    return build_model("resnet8", 10, 1, 8)
"""


def test_one_network_is_one_run_whatever_names_it(tmp_path, monkeypatch, call):
    """A function or a file, from the command line or from Python, or the network itself."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "network_of_the_api.py").write_text(MODULE)
    network = importlib.import_module("network_of_the_api").make()
    torch.save({"net": network.state_dict()}, tmp_path / "net.pt")
    options = {"attacks": "none", "n": 5, "results": tmp_path, "quiet": True}
    first = bench.evaluate(network, "digits", **options)
    file = str(tmp_path / "net.pt")
    others = [
        bench.evaluate("network_of_the_api:make", "digits", **options),
        bench.evaluate(file, "digits", arch="resnet8", **options),
    ]
    assert {other.run_id for other in others} == {first.run_id}
    assert all(other.stored_at for other in others)
    for source in (["network_of_the_api:make"], [file, "--arch", "resnet8"]):
        ended = call(
            "evaluate", *source, *"--dataset digits --attacks".split(), "",
            *"--eval-limit 5 --results".split(), str(tmp_path),
        )  # fmt: skip
        assert f"stored in {first.path}" in ended.out
        assert "was stored on" in ended.err
    options |= {"normalize": "dataset"}
    normalised = bench.evaluate(file, "digits", arch="resnet8", **options)
    assert normalised.run_id != first.run_id
    assert normalised.run_id == bench.evaluate(network, "digits", **options).run_id


def test_which_of_several_weights_is_meant_is_said(tmp_path):
    first, second = build_model("resnet8", 10, 1, 8), build_model("resnet8", 10, 1, 8)
    file = tmp_path / "both.pt"
    torch.save({"state_dict": first.state_dict(), "ema": second.state_dict()}, file)
    options = {"attacks": "none", "n": 5, "results": tmp_path, "quiet": True}
    with pytest.raises(UserError, match=r"under 'state_dict', 'ema': choose .* \(weights_key="):
        bench.evaluate(file, "digits", arch="resnet8", **options)
    found = bench.evaluate(file, "digits", arch="resnet8", weights_key="ema", **options)
    assert found.run_id == bench.evaluate(second, "digits", **options).run_id


def test_a_function_is_evaluated_with_the_networks_that_it_calls_in_eval_mode(tmp_path):
    images, labels = digits()
    inner = nn.Sequential(network(), nn.Dropout(0.9)).train()
    result = bench.evaluate(
        lambda x: inner(x), (images, labels), attacks="none", results=tmp_path, quiet=True
    )
    assert result.clean.value == accuracy(inner.eval(), images, labels)


def test_a_model_whose_images_see_each_other_is_never_ranked(tmp_path):
    options = {"attacks": "none", "results": tmp_path, "quiet": True}
    plain, dependent = (
        bench.evaluate(model, "digits", **options)
        for model in (foreign.small(), foreign.batch_statistics())
    )
    partial = bench.results(tmp_path).set_index("run_id")["partial"].to_dict()
    assert partial == {plain.run_id: False, dependent.run_id: True}
    assert any(flag.startswith("batch-dependent: ") for flag in dependent.flags)
    for result, ranked in ((plain, True), (dependent, False)):
        rows = run_summary(tmp_path, result.run_id, result.evaluation_id).to_json()["rows"]
        assert [row["rank"] == "1" for row in rows if row["own"]] == [ranked]
