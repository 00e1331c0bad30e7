"""Export a run's model as a folder with the model file, ``config.json`` and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import Template

import harness
from harness.errors import UserError
from harness.evaluation.guards import own_random_state
from harness.experiment.record import check_registered
from harness.models.checkpoint import read_checkpoint, state_dict_sha256
from harness.models.external.export import INPUT, OUTPUT, Exported, export_model
from harness.models.loading import load_run_model
from harness.registry import METHODS
from harness.store.files import file_sha256, read_json, replacing, write_json_atomic
from harness.store.rundir import RunDirectory, find_run
from leaderboards.protocols import metric_title, protocol_facts

DEFAULT_FORMAT = "safetensors"
DEFAULT_FOLDER = Path("exports")
TAGS = {
    "natural": "image-classification",
    "adversarial": "adversarial-robustness",
    "distillation": "knowledge-distillation",
}

Facts = dict[str, Any]


def export(
    run: str,
    out: str | Path | None = None,
    *,
    format: str = DEFAULT_FORMAT,
    results: str | Path = "results",
) -> Path:
    """Export a trained run's model, including its normalisation, with a model card for hubs.

    The file is read back, and its logits must agree with the model's. A folder may hold several
    formats: each call adds one.

    Args:
        run: a stored run.
        out: the folder; default ``exports/RUN``.
        format: ``safetensors``, ``state-dict``, ``torchscript`` or ``onnx``.
        results: the results folder.

    Returns:
        The folder. It holds the model file, ``config.json`` and ``README.md``: a model card with
        every finished evaluation, its protocol, number of images and intervals.

    Raises:
        UserError: the run or format does not exist, a package is missing, or the network cannot
            be written in that format.
    """
    directory = find_run(Path(results), run)
    if directory.record.get("kind") == "loaded":
        raise UserError(
            f"{directory.run_id} is an evaluation of an external model, which is not stored: "
            "only a model that a run trained can be exported"
        )
    folder = DEFAULT_FOLDER / directory.run_id if out is None else Path(out)
    # Building a network draws its initial weights from the global generator.
    with own_random_state(torch.device("cpu")):
        exported, config = described(directory)
        others = _other_files(folder, config)
        file = export_model(exported, format, folder)
    written = {file.name: {"format": format, "sha256": file_sha256(file)}}
    config["files"] = dict(sorted((others | written).items()))
    write_json_atomic(config, folder / "config.json")
    with replacing(folder / "README.md") as handle:
        handle.write(card(config).encode())
    return folder


def described(directory: RunDirectory) -> tuple[Exported, Facts]:
    """Return a run's model and the content of ``config.json``.

    Raises:
        UserError: the run is not trained, or its model is not the one that it trained.
    """
    check_registered(directory)
    record, model = directory.record, load_run_model(directory)
    content = read_checkpoint(directory.trained_model)
    shape = (content["num_classes"], content["in_channels"], content["image_size"])
    config: Facts = {
        "library": f"divergence-bench {harness.__version__}",
        "run": directory.run_id,
        "architecture": content["arch"],
        "num_classes": shape[0],
        "in_channels": shape[1],
        "image_size": shape[2],
        "input": f"{INPUT}: float32 [batch, {shape[1]}, {shape[2]}, {shape[2]}] in [0, 1]",
        "output": f"{OUTPUT}: float32 [batch, {shape[0]}]",
        "normalize": content["normalize"],
        "dataset": record["dataset"],
        "weights_sha256": state_dict_sha256(model),
        "training": _training(record, content["epoch"]),
        "evaluations": [
            _evaluation(record["dataset"], each.record) for each in directory.finished_evaluations()
        ],
    }
    facts = {
        name: json.dumps(config[name]) if name == "normalize" else str(config[name])
        for name in ("run", "architecture", "dataset", "normalize", "input", "weights_sha256")
    }
    return Exported(model, content["arch"], shape, facts), config


def _training(record: Mapping[str, Any], epoch: int) -> Facts:
    config = record["config"]
    teacher = record.get("teacher_facts") or {}
    return {
        "method": record["method"],
        "title": record["method_title"],
        "task": record["task"],
        "recipe": record["recipe"],
        "recipe_changes": record["recipe_changes"],
        "params": config["params"],
        "epochs": config["training"]["epochs"],
        "selection": record.get("selection"),
        "selected_epoch": epoch,
        "seed": record["seed"],
        "partial": record["partial"],
        **({"teacher": teacher["arch"], "teacher_clean": teacher["accuracy"]} if teacher else {}),
        "git": (record.get("provenance") or {}).get("git"),
        "packages": (record.get("provenance") or {}).get("packages"),
    }


def _evaluation(dataset: str, record: Mapping[str, Any]) -> Facts:
    protocol = {"dataset": dataset, **record["protocol"]}
    return {
        "evaluation": record["evaluation_id"],
        "protocol": ", ".join(protocol_facts(protocol, protocol["attacks"])),
        **{name: protocol[name] for name in ("norm", "eps", "attacks", "attack_version", "n")},
        "partial": protocol["partial"],
        "data_sha256": protocol["data_sha256"],
        "metrics": record["metrics"],
        "flags": [f"{flag['name']}: {flag['detail']}" for flag in record.get("flags") or ()],
    }


def _other_files(folder: Path, config: Mapping[str, Any]) -> Facts:
    """Return the folder's files that hold the same weights in other formats.

    Raises:
        UserError: the folder holds another model.
    """
    path = folder / "config.json"
    if not path.exists():
        return {}
    before = read_json(path)
    if not isinstance(before, dict) or before.get("weights_sha256") != config["weights_sha256"]:
        raise UserError(
            f"{folder} holds another model, as its config.json says: give another --out"
        )
    return {name: facts for name, facts in before["files"].items() if (folder / name).is_file()}


def card(config: Mapping[str, Any]) -> str:
    """Return a model card in Markdown, with the metadata that model hubs read."""
    method = config["training"]["method"]
    template = files("divergence_bench").joinpath("card.md.jinja").read_text("utf-8")
    known = METHODS.get(method).card if method in METHODS else None
    text: str = Template(template, trim_blocks=True, keep_trailing_newline=True).render(
        config,
        metadata=yaml.safe_dump(_metadata(config), sort_keys=False, allow_unicode=True),
        paper=known and known.paper,
        bibtex=known and known.bibtex,
        percent=lambda found: f"{100 * found['value']:.2f} {_interval(found)}",
        metric_title=metric_title,
    )
    return text


def _interval(found: Mapping[str, float]) -> str:
    return f"[{100 * found['low']:.2f}, {100 * found['high']:.2f}]"


def _metadata(config: Mapping[str, Any]) -> Facts:
    """Metadata for a hub's index: clean and robust accuracy of every evaluation, in percent."""
    data = {"type": config["dataset"], "name": config["dataset"], "split": "test"}
    metrics = [
        {
            "type": "accuracy",
            "name": f"{title}, {evaluation['protocol']}, 95% interval {_interval(found)}",
            "value": round(100 * found["value"], 2),
        }
        for evaluation in config["evaluations"]
        for metric, title in (("clean", "Clean accuracy"), ("robust", "Robust accuracy"))
        if metric == "clean" or evaluation["attacks"]
        for found in [evaluation["metrics"][metric]]
    ]
    results = {"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}
    return {
        "library_name": "divergence-bench",
        "pipeline_tag": "image-classification",
        "tags": [TAGS.get(config["training"]["task"]), config["training"]["method"]],
        "datasets": [config["dataset"]],
        "model-index": [{"name": config["run"], "results": [results] if metrics else []}],
    }
