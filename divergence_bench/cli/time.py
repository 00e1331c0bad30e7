"""The command ``time``."""

from __future__ import annotations

from typing import Annotated, Any

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import new_console, print_json, print_rows, stdout_for_results
from harness.config.base import split_names
from harness.errors import UserError

HEAD = (
    "{teacher} -> {student}, {dataset} (images: {images}; weights: {weights}), batches of "
    "{batch_size}, {device}, threads: {threads}, torch {torch}, {machine}"
)
FOOT = (
    "ms, median [quartiles] of {repeats} steps after {warmup} untimed ones, in turns; memory on "
    "GPUs only"
)


def time(
    methods: Annotated[str, opt.METHODS],
    pair: Annotated[
        str,
        opt.value(
            "TEACHER-STUDENT",
            "Architectures, such as resnet56-resnet20; see `list models`.",
            opt.SELECTION,
        ),
    ],
    batch_size: Annotated[int, opt.value("N", "Images per step.", opt.TRAINING, min=1)] = 64,
    repeats: Annotated[
        int,
        opt.value("N", "Timed steps of each method.", opt.EXECUTION, min=1),
    ] = 20,
    warmup: Annotated[
        int,
        opt.value("N", "Untimed steps of each method first.", opt.EXECUTION, min=0),
    ] = 5,
    dataset: opt.Dataset = "cifar100",
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.Json = False,
) -> None:
    """Time training steps of methods, in turns, in one process on one device.

    The dataset sets shapes, classes and augmentation; if its files are missing, images are random.
    """
    from harness.experiment.step_timing import Plan, time_methods

    plan = Plan(*split_pair(pair), str(dataset), batch_size, repeats, warmup, device, data_root)
    with stdout_for_results():
        result = time_methods(split_names(methods), plan)
    if as_json:
        print_json(result)
        return
    print(HEAD.format_map(result))
    print_rows("methods", rows_for_reading(result), new_console())
    print(FOOT.format_map(result))


def split_pair(pair: str) -> tuple[str, str]:
    """Split ``resnet56-resnet20`` into teacher and student; both names may contain dashes.

    Raises:
        UserError: the text is not two registered architectures joined by a dash.
    """
    from harness.models import ARCHITECTURES

    for position in (position for position, sign in enumerate(pair) if sign == "-"):
        teacher, student = pair[:position], pair[position + 1 :]
        if teacher in ARCHITECTURES and student in ARCHITECTURES:
            return teacher, student
    raise UserError(
        f"{pair!r} is not TEACHER-STUDENT, two models of `list models` such as resnet56-resnet20"
    )


def rows_for_reading(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per method, times in ms."""
    return [
        {
            "method": row["method"],
            "teacher_logits": row["teacher_logits"],
            "step": _milliseconds(row["step_s"]),
            "step_with_data": _milliseconds(row["step_with_data_s"]),
            "extra_parameters": f"{row['extra_parameters']:,}",
            "memory": row["peak_memory_mb"] and f"{row['peak_memory_mb']:.0f} MiB",
        }
        for row in result["rows"]
    ]


def _milliseconds(seconds: dict[str, float]) -> str:
    low, median, high = (1e3 * seconds[name] for name in ("low", "median", "high"))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"
