"""Distillation step with a warm table of teacher logits, against the student's own step, in turns.

With the project installed:

    python benchmarks/kd_step.py [--json]

resnet56 to resnet20, 100 classes, 32x32, batches of 64, one thread, float32, random images. The
step of KD, DKD and IKL-KD with its logits from the table is to take at most 1.15 times the step of
the student alone (cross-entropy), and at most 0.6 of the step with the teacher's forward pass; if a
median ratio is above, the exit status is 1. Prediction, from counting: the student's step is worth
some 3 x 41 million multiplications an image, the teacher's forward pass 126 million, so the second
ratio is near a half, and the first near 1, reading 64 rows of 400 bytes being nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from harness.experiment.step_timing import Plan, text, time_methods

METHODS = ("kd", "dkd", "ikl-kd")
STUDENT, TO_STUDENT, TO_FORWARD = "vanilla", 1.15, 0.6


def ratios(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each method, the ratios of its step with the table to the two other steps.

    Each ratio is the median over turns of the ratio within a turn.
    """
    seconds = {
        (row["method"], row["teacher_logits"]): torch.tensor(row["steps_s"])
        for row in result["rows"]
    }
    found = {}
    for method in METHODS:
        table = seconds[method, "table"]
        found[method] = {
            "to_own_step": float((table / seconds[STUDENT, None]).median()),
            "to_forward": float((table / seconds[method, "forward"]).median()),
        }
    return found


def show(found: dict[str, dict[str, float]]) -> str:
    """The ratios as text."""
    return "\n".join(
        f"{method}: {values['to_own_step']:.3f} of the student's own step (at most {TO_STUDENT}), "
        f"{values['to_forward']:.3f} of the step with the teacher's forward (at most {TO_FORWARD})"
        for method, values in found.items()
    )


def main() -> int:
    """Measure and print; the exit status is 1 if a ratio is above its limit."""
    parser = argparse.ArgumentParser(description="Distillation step with a warm logit table.")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = Plan(
        "resnet56",
        "resnet20",
        repeats=options.repeats,
        warmup=3,
        device=options.device,
        data_root=Path("no-images-are-needed"),
    )
    result = time_methods([STUDENT, *METHODS], plan)
    found = ratios(result)
    if options.json:
        print(json.dumps(result | {"ratios": found}))
    else:
        print(text(result), show(found), sep="\n")
    met = all(
        values["to_own_step"] <= TO_STUDENT and values["to_forward"] <= TO_FORWARD
        for values in found.values()
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
