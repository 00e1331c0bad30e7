"""Time training steps of the harness's trainer: eager, compiled and with CUDA graphs.

With the project installed:

    python benchmarks/step.py --method ikl --student wrn-28-10 --device cuda
    python benchmarks/step.py --method ikl-kd --teacher resnet56 --student resnet20 --device cuda

Images are random and of CIFAR-100's size, settings are those of the method's recipe, and networks
are untrained, which does not affect the time. ``compiled`` is the setting ``training.compile``.
``graphs`` compiles in torch's mode ``reduce-overhead``, which replays CUDA graphs; the harness has
no setting for it, and on a CPU it is the same as ``compiled``. Modes are timed one after the other
and printed as they end. There is no limit: the exit status is 0 unless a mode fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from shared import finish, machine
from torch import Tensor, nn

from harness.experiment.resolve import resolve
from harness.experiment.step_timing import Plan, Subject, training_images

MODES = ("eager", "compiled", "graphs")


class Replayed(nn.Module):
    """A network compiled to CUDA graphs, whose logits the next pass does not overwrite."""

    def __init__(self, forward: nn.Module) -> None:
        """Prepare the network, which is compiled at the first pass."""
        super().__init__()
        self.compiled = torch.compile(forward, mode="reduce-overhead")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return cast(Tensor, self.compiled(x)).clone()


def measure(mode: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time one mode's steps."""
    plan = Plan(
        options.teacher or "", options.student, "cifar100", options.batch, options.repeats,
        options.warmup, options.device,
    )  # fmt: skip
    data, labels, _ = training_images(plan)
    settings = {
        "model.arch": options.student,
        "teacher.arch": options.teacher,
        "training.batch_size": options.batch,
        "training.channels_last": True,
        "training.compile": mode == "compiled",
        "training.selection.rule": "last",
        "data.val_size": 0,
        "device": options.device,
    }
    config = resolve(options.method, dataset="cifar100", options=settings)
    subject = Subject(config, data, labels, folder, "forward")
    if mode == "graphs":
        subject.trainer.forward = Replayed(subject.trainer.plain)
    for turn in range(options.warmup + options.repeats):
        subject.step(timed=turn >= options.warmup)
    row = subject.row()
    return {"seconds": row["step_s"], "peak_memory_mb": row["peak_memory_mb"]}


def show(mode: str, result: dict[str, Any], eager: float | None) -> str:
    """Format one mode as a line of text."""
    seconds, memory = result["seconds"], result["peak_memory_mb"]
    line = (
        f"  {mode:9}{1000 * seconds['median']:10.2f} ms "
        f"[{1000 * seconds['low']:.2f}, {1000 * seconds['high']:.2f}]"
    )
    line += f", {memory:.0f} MiB" if memory else ""
    return line + (f", {eager / seconds['median']:.2f} times eager's speed" if eager else "")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training steps: eager, compiled, CUDA graphs.")
    parser.add_argument("--method", default="ikl")
    parser.add_argument("--student", default="preact-resnet18", help="network to train")
    parser.add_argument("--teacher", help="teacher network, for a method that has one")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    pair = f"{options.teacher} -> {options.student}" if options.teacher else options.student
    head = f"{options.method} step, {pair}, batches of {options.batch}: median [quartiles]"
    progress = sys.stderr if options.json else sys.stdout
    print(head, file=progress, flush=True)
    modes: dict[str, dict[str, Any]] = {}
    for mode in options.modes:
        with tempfile.TemporaryDirectory() as folder:
            modes[mode] = measure(mode, options, Path(folder))
        eager = modes["eager"]["seconds"]["median"] if "eager" in modes else None
        print(show(mode, modes[mode], eager), file=progress, flush=True)
    result = {**vars(options), "modes": modes, **machine()}
    text = f"torch {result['torch']}, {result['threads']} threads, {options.device}"
    return finish(result, text, met=True, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
