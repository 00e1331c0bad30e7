"""Exported models: read as their users do, they are the run's model; a wrong one is not kept."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import divergence_bench as bench
from harness.data import load_dataset
from harness.errors import UserError
from harness.models.external import export as formats
from harness.store.files import file_sha256, read_json
from harness.store.rundir import find_run

FILES = {
    "safetensors": "model.safetensors",
    "state-dict": "model.pt",
    "torchscript": "model.torchscript",
    "onnx": "model.onnx",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one run, which normalises its images and was attacked."""
    folder = tmp_path_factory.mktemp("results")
    bench.train(
        "vanilla", "digits", results=folder, epochs=1, train_limit=64, model={"normalize": True},
        attacks="apgd-ce", n=20, eps=0.02, quiet=True,
    )  # fmt: skip
    return folder


def read_by_the_card(folder: Path, form: str, monkeypatch: Any) -> Callable[[Tensor], Tensor]:
    """The function that the card's code for a format makes, from images to logits."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if FILES[form] in block]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 10)
    if form == "onnx":
        return lambda x: torch.from_numpy(names["session"].run(None, {"images": x.numpy()})[0])
    return names["model"]


@pytest.mark.parametrize("form", FILES)
def test_the_file_gives_the_logits_of_the_run(
    form: str, results: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = bench.results(results)["run_id"][0]
    out = tmp_path / "hub"
    command = ["export", run_id, "--results", str(results), "--out", str(out)]
    ended = call(*command, "--format", form, "--json")
    assert ended.status == 0, ended.err
    facts = json.loads(ended.out)
    assert facts[FILES[form]]["sha256"] == file_sha256(out / FILES[form])
    assert facts["weights_sha256"] == find_run(results, run_id).record["model_sha256"]
    assert {path.name for path in out.iterdir()} == {FILES[form], "config.json", "README.md"}

    images = load_dataset("digits", splits=("test",)).test.images_float(slice(50))
    model = bench.load_model(run_id, results=results)
    read = read_by_the_card(out, form, monkeypatch)
    with torch.no_grad():
        for batch in (images, images[:1]):
            expected, found = model(batch), read(batch)
            if form in ("safetensors", "state-dict"):
                assert torch.equal(found, expected)
            else:
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_card_has_every_number_with_its_protocol(results: Path, tmp_path: Path) -> None:
    run_id = bench.results(results)["run_id"][0]
    folder = bench.export(run_id, tmp_path / "hub", results=results)
    bench.export(run_id, folder, format="state-dict", results=results)
    config, text = read_json(folder / "config.json"), (folder / "README.md").read_text()
    assert set(config["files"]) == {"model.pt", "model.safetensors"}
    (row,) = bench.results(results).to_dict("records")
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    (model,) = metadata["model-index"]
    clean, robust = model["results"][0]["metrics"]
    assert clean["value"] == round(100 * row["clean"], 2)
    assert robust["value"] == round(100 * row["robust"], 2)
    interval = f"[{100 * row['robust_low']:.2f}, {100 * row['robust_high']:.2f}]"
    protocol = "digits, Linf 0.02, APGD-CE (pyautoattack-0.2.0), n = 20, partial"
    assert robust["name"] == f"Robust accuracy, {protocol}, 95% interval {interval}"
    assert f"| {protocol} | APGD-CE | {100 * row['robust']:.2f} {interval} |" in body
    assert f"`{config['weights_sha256']}`" in body
    assert "trained on only part of the dataset" in body

    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = file.metadata()
    assert stored["weights_sha256"] == config["weights_sha256"]
    assert json.loads(stored["normalize"]) == config["normalize"]


def test_the_card_leaves_out_a_damaged_evaluation(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    (run_id,) = bench.results(copy)["run_id"]
    record = find_run(copy, run_id).evaluation("0" * 12).record_path
    record.parent.mkdir()
    record.write_text('{"status": ')
    folder = bench.export(run_id, tmp_path / "hub", format="state-dict", results=copy)
    assert len(read_json(folder / "config.json")["evaluations"]) == 1


def test_a_file_that_gives_other_logits_is_not_kept(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(exported: formats.Exported, path: Path) -> None:
        state = exported.model.state_dict()
        torch.save({**state, "mean": state["mean"] + 0.01}, path)

    faulty = replace(formats.FORMATS["state-dict"], write=write)
    monkeypatch.setitem(formats.FORMATS, "state-dict", faulty)
    run_id = bench.results(results)["run_id"][0]
    with pytest.raises(UserError, match="exported as state-dict gives other logits"):
        bench.export(run_id, tmp_path / "hub", format="state-dict", results=results)
    assert not list((tmp_path / "hub").iterdir())


def test_a_file_that_gives_nan_for_one_image_alone_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Flatten()

    def read(exported: formats.Exported, path: Path) -> formats.Read:
        return lambda images: model(images) * (torch.nan if len(images) == 1 else 1)

    faulty = replace(formats.FORMATS["state-dict"], read=read)
    monkeypatch.setitem(formats.FORMATS, "state-dict", faulty)
    exported = formats.Exported(model.eval(), "flatten", (64, 1, 8), {})
    with pytest.raises(UserError, match=r"gives other logits .*\(by nan of the largest\)"):
        formats.export_model(exported, "state-dict", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(1)[:, :2]
            return rows if len(x) == 1 else rows * 2

    exported = formats.Exported(Branching().eval(), "branching", (2, 1, 8), {})
    with pytest.raises(UserError, match=r"torchscript gives other logits .* choose another"):
        formats.export_model(exported, "torchscript", tmp_path)
    with pytest.raises(UserError, match=r"branching cannot be exported as onnx|other logits"):
        formats.export_model(exported, "onnx", tmp_path)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_sentence(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = bench.results(results)["run_id"][0]
    with pytest.raises(UserError, match="there is no format 'tflite': choose one of safetensors"):
        bench.export(run_id, tmp_path, format="tflite", results=results)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(UserError, match=r"onnxscript, .*pip install 'divergence-bench\[export"):
            bench.export(run_id, tmp_path, format="onnx", results=results)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds another model"):
        bench.export(run_id, tmp_path, results=results)
    own = tmp_path / "own"
    model = bench.load_model(run_id, results=results)
    loaded = bench.evaluate(model, "digits", attacks="none", n=5, results=own, quiet=True)
    with pytest.raises(UserError, match="only a model that a run trained can be exported"):
        bench.export(loaded.run_id, results=own)
