"""The verb ``export``: a run's model for other programs and model hubs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from divergence_bench import hub
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import print_result
from harness.store.files import read_json


def export(
    run: Annotated[str, Argument(help="A run.")],
    format: Annotated[
        str, Option(help="safetensors, state-dict, torchscript or onnx.")
    ] = hub.DEFAULT_FORMAT,
    out: Annotated[Path | None, Option(help="Folder to write; default: exports/RUN.")] = None,
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Write a run's model, with its normalisation inside, as a folder for a model hub."""
    folder = hub.export(run, out, format=format, results=results)
    config = read_json(folder / "config.json")
    facts = {"folder": str(folder), "weights_sha256": config["weights_sha256"], **config["files"]}
    files = ", ".join([*config["files"], "config.json", "README.md"])
    text = f"{files} in {folder}; the logits agree with those of {config['run']}"
    print_result(facts, text, as_json=as_json)
