"""The command ``export``: a run's model for other programs and model hubs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import print_result, stdout_for_results
from harness.store.files import read_json


def export(
    run: opt.Run,
    format: Annotated[
        str,
        opt.value(
            "NAME",
            "safetensors, state-dict, torchscript or onnx.",
            opt.SELECTION,
            complete=completion.model_formats,
        ),
    ] = "safetensors",
    out: Annotated[
        Path | None, opt.value("DIR", "Folder to write; default: exports/RUN.", opt.STORAGE)
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Export a run's model, including its normalisation, as a folder for a model hub."""
    from divergence_bench import hub

    with stdout_for_results():
        folder = hub.export(run, out, format=format, results=results)
    config = read_json(folder / "config.json")
    facts = {"folder": str(folder), "weights_sha256": config["weights_sha256"], **config["files"]}
    files = ", ".join([*config["files"], "config.json", "README.md"])
    text = f"{files} in {folder}; the logits agree with those of {config['run']}"
    print_result(facts, text, as_json=as_json)
