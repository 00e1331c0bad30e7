"""The teacher of a distillation run: loading or training it, its accuracy and its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from harness.config import RunConfig, TeacherConfig
from harness.data.base import Dataset, DatasetInfo, ImageSource
from harness.data.loader import Loader
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.errors import UserError
from harness.evaluation.analysis.flags import significantly_more
from harness.evaluation.analysis.statistics import accuracy
from harness.evaluation.clean import clean_accuracy
from harness.evaluation.speed.batching import GRAIN
from harness.experiment.logit_table import LogitTable, free_bytes, gigabytes, table_bytes
from harness.experiment.resolve import check_source, is_own_network, teacher_file, teacher_run
from harness.method import Batch, Task
from harness.models import build_model
from harness.models.checkpoint import read_checkpoint, state_dict_sha256, tensors_sha256
from harness.models.external.probe import check_model
from harness.models.external.unwrap import load_weights
from harness.models.loading import from_own, is_external, is_own, load_external
from harness.models.normalize import statistics_of
from harness.models.zoos import Loaded
from harness.progress import Reporter
from harness.store.files import file_sha256
from harness.store.rundir import RunDirectory
from harness.training.build import choose_device, training_dtype
from harness.training.modes import ReplicaForward

TABLES_FOLDER = Path("cache", "teacher-logits")

RunTeacher = Callable[[RunConfig, Reporter], object]
TeacherLogitsFn = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher: in eval mode, on the run's device, without gradients.

    Attributes:
        model: takes images in [0, 1].
        sha256: SHA-256 of the weights in its source.
        state_sha256: SHA-256 of its parameters and buffers, normalisation included.
        facts: what the run's record says about it.
    """

    model: nn.Module
    sha256: str
    state_sha256: str
    facts: dict[str, Any]

    @property
    def described(self) -> dict[str, Any]:
        """The fields about the teacher in the run's record."""
        return {"teacher": self.facts["arch"], "teacher_facts": self.facts}


def prepare_teacher(
    config: RunConfig,
    data: Dataset,
    reporter: Reporter,
    train: RunTeacher,
    *,
    fresh: bool = False,
) -> Teacher | None:
    """Load the run's teacher and measure its accuracy; train it first where needed.

    Args:
        config: the student's run.
        data: its images; the teacher's accuracy is measured on the test split.
        reporter: receives messages about the training and the accuracy.
        train: performs a run; called for an ``auto`` teacher that is missing or unfinished.
        fresh: ignore any existing run of the student.

    Returns:
        The teacher, or None if the run has none or its model is already trained.

    Raises:
        UserError: the teacher cannot be loaded, is less accurate than required, or is not the one
            that the run started with.
    """
    student = RunDirectory(config.results, config.run_id)
    if config.teacher is None or (student.model_path.exists() and not fresh):
        return None
    check_source_settings(config.teacher)
    _train_if_missing(config, reporter, train)
    device = choose_device(config.device)
    model, sha256 = load_teacher(config, data.info)
    model = model.to(device).eval().requires_grad_(False)
    if config.training.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    began = student.exists and not fresh
    before = student.record.get("teacher_facts") if began else None
    if before and before["sha256"] != sha256:
        raise UserError(
            f"run {config.run_id} began with another teacher (SHA-256 {before['sha256'][:12]}, now "
            f"{sha256[:12]}): restore that one, or delete the run directory {student.path}"
        )
    facts = before or {
        "arch": config.teacher.arch,
        "source": config.teacher.source,
        "weights": config.teacher.weights,
        "sha256": sha256,
        "accuracy": accuracy(*clean_accuracy(model, data.test, device)),
        "test_sha256": data.test.sha256,
    }
    _check_accuracy(config.teacher, facts, data.info.num_classes, reporter)
    model = model.to(training_dtype(config))
    return Teacher(model, sha256, state_dict_sha256(model), facts)


def check_source_settings(teacher: TeacherConfig, *, own: bool = False) -> None:
    """Refuse settings that do not apply to the source of the weights.

    Args:
        teacher: the teacher's configuration.
        own: whether its weights were saved by a run, as those of an ``auto`` teacher are.

    Raises:
        UserError: such a setting is given, which would rename the run and change nothing.
    """
    for name, value in (("normalize", teacher.normalize), ("weights_key", teacher.weights_key)):
        if value is not None and (own or teacher.source == "auto"):
            raise UserError(
                f"teacher.{name}={value} is for external weights, but the teacher's were saved by "
                "a run: leave it out"
            )
    if teacher.weights_key is not None and is_external(teacher.source):
        raise UserError(
            f"teacher.weights_key={teacher.weights_key} is for weights files, but the teacher's "
            f"weights come from {teacher.source}: leave it out"
        )


def _train_if_missing(config: RunConfig, reporter: Reporter, train: RunTeacher) -> None:
    assert config.teacher is not None
    if config.teacher.source != "auto":
        return
    needed = teacher_run(config)
    if not RunDirectory(needed.results, needed.run_id).model_path.exists():
        reporter.line(
            f"the teacher, {needed.model.arch} on {needed.data.name}, is trained first: run "
            f"{needed.run_id}, {needed.training.epochs} epochs"
        )
        train(needed, reporter)


def _check_accuracy(
    teacher: TeacherConfig, facts: dict[str, Any], num_classes: int, reporter: Reporter
) -> None:
    found = facts["accuracy"]
    measured = (
        f"the teacher {teacher.arch} ({teacher.weights}) has accuracy {100 * found['value']:.2f}% "
        f"[{100 * found['low']:.2f}, {100 * found['high']:.2f}] on {found['n']} test images"
    )
    if teacher.minimum is not None and found["value"] < teacher.minimum:
        raise UserError(
            f"{measured}, but at least {100 * teacher.minimum:.2f}% is required: train it longer "
            "(teacher.config), choose another with --teacher, or set teacher.minimum"
        )
    right = round(found["value"] * found["n"])
    chosen = teacher.source != "auto" and teacher.minimum is None
    if chosen and not significantly_more(right, found["n"], 1 / num_classes):
        raise UserError(
            f"{measured}, no better than guessing: choose another with --teacher, set the image "
            "normalisation with teacher.normalize, or accept it with teacher.minimum=0"
        )
    reporter.line(measured)


def untrained_teacher(arch: str, info: DatasetInfo, device: torch.device) -> Teacher:
    """A teacher with random weights, where only its shapes matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(arch, info.num_classes, info.channels, info.image_size)
    model = model.to(device).eval().requires_grad_(False)
    sha256 = state_dict_sha256(model)
    return Teacher(model, sha256, sha256, {"arch": arch})


def load_teacher(config: RunConfig, info: DatasetInfo) -> tuple[nn.Module, str]:
    """Load the teacher's network, on the CPU, and return it with the SHA-256 of its weights.

    The network is the registered one, which exposes its features, unless the source brings its
    own. A bare state dict does not say how images were normalised: ``teacher.normalize`` decides,
    or else the student's normalisation is used.

    Raises:
        UserError: the weights cannot be loaded, or belong to another network.
    """
    assert config.teacher is not None
    arch, source = config.teacher.arch, config.teacher.source
    if is_external(source):
        found, facts = load_external(source, dataset_info=info, normalize=config.teacher.normalize)
        if is_own_network(source):
            # A teacher sees the student's images, even if it was published for other images.
            check_model(found, info, source)
            return found, facts["sha256"]
        network = build_model(arch, info.num_classes, info.channels, info.image_size)
        load_weights(network, getattr(found, "model", found).state_dict(), source)
        normalize = facts["normalize"]
        statistics = (normalize["mean"], normalize["std"]) if normalize else None
        loaded = Loaded(network, arch, source, statistics, facts["sha256"])
    else:
        loaded = _from_file(teacher_file(config), config, info)
    model = loaded.model()
    return model, loaded.sha256 or state_dict_sha256(model)


def _from_file(path: Path, config: RunConfig, info: DatasetInfo) -> Loaded:
    assert config.teacher is not None
    arch = config.teacher.arch
    content = read_checkpoint(path)
    if is_own(content):
        check_source(str(path), content.get("dataset"), content.get("arch"), config)
        check_source_settings(config.teacher, own=True)
        return from_own(content, path)
    network = build_model(arch, info.num_classes, info.channels, info.image_size)
    taken = load_weights(network, content, str(path), config.teacher.weights_key)
    statistics = taken.statistics
    if config.teacher.normalize is not None:
        statistics = statistics_of(config.teacher.normalize, info)
    elif statistics is None and config.model.normalize:
        statistics = (info.mean, info.std)
    return Loaded(network, arch, path.name, statistics, file_sha256(path))


@contextmanager
def unchanged(teacher: Teacher | None, task: Task) -> Iterator[None]:
    """Check on exit that training the student has not changed its teacher.

    Raises:
        RuntimeError: a parameter of the teacher changed, or a buffer did and the task does not set
            ``teacher_state_moves``.
    """
    if teacher is None:
        yield
        return
    parameters = tensors_sha256(dict(teacher.model.named_parameters()))
    yield
    kept = tensors_sha256(dict(teacher.model.named_parameters())) == parameters
    if kept and not task.teacher_state_moves:
        kept = state_dict_sha256(teacher.model) == teacher.state_sha256
    if not kept:
        raise RuntimeError(
            f"training changed the teacher {teacher.facts['arch']}, so the student is not valid: a "
            "task that changes the teacher's statistics must set teacher_state_moves"
        )


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits float32 [B, C] of images [B, K, H, W], independent of the rest of the batch.

    This holds on a CPU, where small batches are padded to the size from which kernels process every
    image in the same way; on a GPU, logits may differ by rounding. Mixed precision is off.
    """
    x = x.to(next(model.parameters()).dtype)
    short = max(0, GRAIN - len(x))
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        logits: Tensor = model(pad(x, (0, 0) * 3 + (0, short)) if short else x)
    return logits[: len(x)].float()


def teacher_logits_fn(
    config: RunConfig,
    task: Task,
    teacher: Teacher | None,
    split: ImageSource,
    loader: Loader,
    reporter: Reporter,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> TeacherLogitsFn | None:
    """Return the function that gives a batch's teacher logits; None if the task needs none.

    With several processes, each one computes the logits of its share of a batch. The table is read
    by every process separately.

    Raises:
        UserError: the configuration requires a table where none is possible.
    """
    if not task.needs_teacher_logits:
        return None
    if teacher is None or config.teacher is None:
        raise RuntimeError(f"the task of {config.method} needs teacher logits, but has no teacher")
    settings = config.teacher
    shared = ReplicaForward(teacher.model, replicas=1, processes=processes)
    forward = _Forward(shared, half=settings.logits_dtype == "float16")
    if settings.logits == "forward":
        return forward
    if not table_possible(settings, task, loader):
        return forward
    assert loader.views is not None
    rows, classes, dtype = len(split) * loader.views, split.info.num_classes, settings.logits_dtype
    folder = config.results / TABLES_FOLDER / table_name(config, teacher, split)
    size = gigabytes(table_bytes(rows, classes, dtype))
    free = free_bytes(folder)
    if (
        settings.logits == "auto"
        and not folder.exists()
        and 2 * table_bytes(rows, classes, dtype) > free
    ):
        # Using more than half of the free space needs an explicit setting.
        reporter.line(
            f"teacher logits are computed for each batch: a table needs {size}, and "
            f"{gigabytes(free)} are free; set teacher.logits=table to store one anyway"
        )
        return forward
    reporter.line(f"teacher logits are kept in {folder}, {size}")
    return _FromTable(teacher.model, LogitTable(folder, rows, classes, dtype))


def table_name(config: RunConfig, teacher: Teacher, split: ImageSource) -> str:
    """The name of a table's folder, made from everything that its logits depend on."""
    assert config.teacher is not None
    data = config.data
    augmentation = f"{data.crop_mode}{data.crop_padding}{'-flip' if data.flip else ''}"
    hashes = f"{teacher.state_sha256[:16]}-{split.sha256[:16]}"
    return f"{hashes}-{augmentation}-{config.teacher.logits_dtype}"


def table_possible(settings: TeacherConfig, task: Task, loader: Loader) -> bool:
    """Whether teacher logits can be stored in a table.

    Raises:
        UserError: they cannot, but the configuration requires it.
    """
    impossible = _no_table(task, loader)
    if impossible and settings.logits == "table" and task.needs_teacher_logits:
        raise UserError(f"a table of teacher logits is not possible: {impossible}")
    return impossible is None


def _no_table(task: Task, loader: Loader) -> str | None:
    """The reason why a table is impossible; None if it is possible."""
    if task.teacher_state_moves:
        return "the teacher changes during training"
    if loader.views is None:
        return "images that are rotated, cropped at any size, or generated have unlimited views"
    return None


@dataclass(frozen=True)
class _Forward:
    """Logits from a forward pass of each batch; ``half`` rounds them as a float16 table would."""

    model: nn.Module
    half: bool = False

    def __call__(self, batch: Batch) -> Tensor:
        logits = logits_of(self.model, batch.x)
        return logits.half().float() if self.half else logits


@dataclass(frozen=True)
class _FromTable:
    """Logits from the table; a forward pass computes the missing ones."""

    model: nn.Module
    table: LogitTable

    def __call__(self, batch: Batch) -> Tensor:
        if batch.view is None:
            raise RuntimeError("the batch has no view numbers")
        logits, found = self.table.read(batch.view)
        missing = (~found).nonzero().flatten()
        if len(missing):
            fresh = logits_of(self.model, batch.x[missing.to(batch.x.device)])
            logits[missing] = self.table.write(batch.view[missing], fresh.cpu())
        if batch.x.device.type == "cuda":
            logits = logits.pin_memory()
        return logits.to(batch.x.device, non_blocking=True)
