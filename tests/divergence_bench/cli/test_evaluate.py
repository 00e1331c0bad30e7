"""The verb ``evaluate``: checkpoints that are refused."""

import os
from pathlib import Path

import pytest
import torch

from harness.models import build_model


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def bad_checkpoints(folder: Path) -> dict[str, tuple[Path, str]]:
    paths = {
        name: folder / f"{name}.pt" for name in ("html", "truncated", "other", "pickle", "bare")
    }
    paths["html"].write_text("<!doctype html><title>quota exceeded</title>")
    torch.save({"state_dict": build_model("resnet8", 10, 1, 8).state_dict()}, paths["truncated"])
    content = paths["truncated"].read_bytes()
    paths["other"].write_bytes(content)
    paths["bare"].write_bytes(content)
    paths["truncated"].write_bytes(content[: len(content) // 2])
    torch.save(Dangerous(), paths["pickle"])
    message = {
        "html": "web page",
        "truncated": "is damaged or not a checkpoint",
        "other": "another net",
        "pickle": "holds a Python object",
        "bare": "arch",
    }
    return {name: (paths[name], text) for name, text in message.items()}


@pytest.mark.parametrize("name", ["html", "truncated", "other", "pickle", "bare"])
def test_a_checkpoint_that_is_none_is_refused_and_runs_no_code(
    refused, name: str, tmp_path: Path
) -> None:
    path, message = bad_checkpoints(tmp_path)[name]
    arch = {"bare": []}.get(name, ["--arch", "resnet14" if name == "other" else "resnet8"])
    line = refused(
        "evaluate", str(path), "--dataset", "digits", *arch, "--results", str(tmp_path / "r")
    )
    assert message in line
    assert not (tmp_path / "pwned").exists()
    assert not Path("pwned").exists()
