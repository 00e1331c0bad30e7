"""The verb ``time``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import print_result
from harness.experiment import step_timing


def time(
    methods: Annotated[str, Option(help="Methods by name, with commas; see `list methods`.")],
    pair: Annotated[str, Option(help="TEACHER-STUDENT, such as resnet56-resnet20.")],
    dataset: Annotated[
        str, Option(help="The dataset whose shapes, classes and augmentation are used.")
    ] = "cifar100",
    batch_size: Annotated[int, Option(min=1, help="Images per step.")] = 64,
    repeats: Annotated[int, Option(min=1, help="Timed steps of each method.")] = 20,
    warmup: Annotated[int, Option(min=0, help="Steps of each before them.")] = 5,
    data_root: opt.DataRoot = None,
    device: opt.Device = "auto",
    as_json: opt.Json = False,
) -> None:
    """Time training steps of methods, in turns, in one process, on one device."""
    teacher, student = step_timing.split_pair(pair)
    plan = step_timing.Plan(
        teacher, student, dataset, batch_size, repeats, warmup, device, data_root
    )
    result = step_timing.time_methods(opt.names(methods), plan)
    print_result(result, step_timing.text(result), as_json=as_json)
