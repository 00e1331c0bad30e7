"""The configuration of a run: data, model, training, teacher and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import JsonValue, field_validator, model_validator

from harness.config.base import (
    Radius,
    Section,
    cost,
    fingerprint,
    identity,
    later_identity,
    split_names,
)
from harness.config.evaluation import EvalConfig


class DataConfig(Section):
    """The images, and their random augmentation in training.

    ``crop_mode`` fills the border of the random crop: ``zero``, or ``reflect`` for the mirrored
    image. ``rotation`` is the largest angle of a random rotation in degrees. ``autoaugment``
    applies AutoAugment's CIFAR-10 policy to each image, and ``cutmix`` is the probability of mixing
    a batch with CutMix (0.5 in its released CIFAR code). The share ``generated_fraction`` of each
    batch comes from the npz archive ``generated``, a set with the name ``generated_name``,
    published by ``generated_source``; ``augment_generated`` augments those images too.
    ``generated_epoch`` sets the length of an epoch with N original images: ``images`` ends it after
    N images of both kinds, ``originals`` after N original ones.
    ``train_files`` is computed for a user's own folder: the hash of the names and sizes of its
    training files; ``name`` contains that of the test files, and ``root`` is the folder.
    """

    name: str = identity("digits")
    root: Path | None = cost(None)
    train_files: str | None = later_identity(None)
    train_limit: int | None = identity(None, ge=1)
    val_size: int = identity(0, ge=0)
    crop_padding: int = identity(4, ge=0)
    flip: bool = identity(True)
    crop_mode: Literal["zero", "reflect"] = identity("zero")
    rotation: float = identity(0.0, ge=0, le=180)
    autoaugment: bool = later_identity(False)
    cutmix: float = later_identity(0.0, ge=0, le=1)
    generated: Path | None = cost(None)
    generated_name: str | None = identity(None)
    generated_source: str | None = cost(None)
    generated_fraction: float = identity(0.0, ge=0, lt=1)
    generated_epoch: Literal["images", "originals"] = identity("images")
    augment_generated: bool = identity(True)
    workers: int = cost(2, ge=0)


class ModelConfig(Section):
    """The network, and whether it normalises its images."""

    arch: str = identity("resnet8")
    normalize: bool = identity(False)


class InnerAttackConfig(Section):
    """The inner maximisation of adversarial training.

    ``step_rule`` gives the steps in epoch e with radius eps_e: ``fixed`` makes ``steps`` steps of
    ``step_size``; ``five-halves`` five steps of eps_e/2; ``two-full`` two steps of eps_e;
    ``staged`` 2, 3, 4, 5 steps of eps_e, 2 eps_e/3, eps_e/2, eps_e/2 in the four quarters of
    training.
    ``ramp`` is the growth of eps_e: ``none`` (eps_e = eps) or ``linear`` (eps_e = eps e / E).
    ``start`` is the starting point: ``gaussian`` x + 0.001 N(0, 1), ``uniform`` in the ball, or
    ``clean``.
    ``model_mode`` is the network's mode during the attack; ``train-frozen`` uses batch statistics
    without updating the running ones.
    """

    norm: Literal["Linf"] = identity("Linf")
    eps: Radius = identity(8 / 255, le=1)
    ramp: Literal["none", "linear"] = identity("none")
    step_rule: Literal["fixed", "five-halves", "two-full", "staged"] = identity("fixed")
    steps: int = identity(10, ge=1)
    step_size: Radius = identity(2 / 255, le=1)
    start: Literal["gaussian", "uniform", "clean"] = identity("gaussian")
    model_mode: Literal["eval", "train", "train-frozen"] = identity("eval")


class WeightPerturbationConfig(Section):
    """Adversarial weight perturbation (Wu et al., 2020); disabled if gamma is 0."""

    gamma: float = identity(0.0, ge=0)
    start_epoch: int = identity(10, ge=1)


class OptimizerConfig(Section):
    """Stochastic gradient descent and its learning-rate schedule.

    Schedules give the rate of epoch e in 1..E from the base rate: ``cosine`` is
    lr (1 + cos(pi (e-1)/E)) / 2, ``cosine-inclusive`` the same with e/(E+1), ``steps`` multiplies
    by ``gamma`` after each epoch in ``milestones``, ``constant`` keeps it, ``onecycle`` rises
    along a cosine from lr/25 to lr over the fraction ``pct_start`` of the epochs and falls along
    another to lr/250000; with ``cycle_momentum`` the momentum falls from 0.95 to 0.85 meanwhile and
    rises again.
    ``cycles`` is the number of times ``cosine`` is run, each over an equal part of the epochs.
    ``warmup_epochs`` scales the rate of the first epochs by e/(warmup+1); ``first_epoch_factor``
    scales that of epoch 1.
    ``decay`` selects the parameters for ``weight_decay``: ``all``, ``not-norm`` all but those of
    normalisation layers, ``not-norm-or-bias`` all but those and biases.
    """

    lr: float = identity(0.1, gt=0)
    momentum: float = identity(0.9, ge=0, lt=1)
    nesterov: bool = identity(False)
    weight_decay: float = identity(5e-4, ge=0)
    decay: Literal["all", "not-norm", "not-norm-or-bias"] = identity("all")
    schedule: Literal["cosine", "cosine-inclusive", "steps", "constant", "onecycle"] = identity(
        "cosine"
    )
    cycles: int = later_identity(1, ge=1)
    pct_start: float = identity(0.025, ge=0, le=1)
    cycle_momentum: bool = identity(False)
    milestones: tuple[int, ...] = identity(())
    gamma: float = identity(0.1, gt=0)
    warmup_epochs: int = identity(0, ge=0)
    first_epoch_factor: float = identity(1.0, gt=0)

    @model_validator(mode="after")
    def _cosine_cycles(self) -> Self:
        if self.cycles > 1 and self.schedule != "cosine":
            raise ValueError(f"cycles need schedule cosine, not {self.schedule}")
        return self

    @model_validator(mode="after")
    def _nesterov_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum greater than 0")
        return self


class AveragingConfig(Section):
    """Exponential moving average of the weights; the average is the model that is evaluated.

    ``epoch`` updates it after each epoch from ``start_epoch`` on, ``step`` after each step; epochs
    in the first ``start_fraction`` of training are left out too. With ``decay_warmup`` the d-th
    update after the first has decay min(decay, (1 + d) / (10 + d)). ``buffers`` of BatchNorm are
    ``averaged`` like weights, or copied from the ``live`` model.
    """

    kind: Literal["none", "epoch", "step"] = identity("none")
    decay: float = identity(0.9, ge=0, lt=1)
    start_epoch: int = identity(1, ge=1)
    start_fraction: float = identity(0.0, ge=0, lt=1)
    decay_warmup: bool = identity(False)
    buffers: Literal["averaged", "live"] = identity("averaged")


class MonitorConfig(Section):
    """Clean and PGD accuracy on validation or else test images, after every ``every`` epochs.

    PGD has the radius of ``selection``.
    """

    every: int = cost(1, ge=0)
    images: int = cost(256, ge=1)
    pgd_steps: int = cost(10, ge=0)


class SelectionConfig(Section):
    """The epoch whose weights are the result.

    ``last`` is the last epoch. ``best-on-val`` is the epoch with the highest PGD accuracy (clean
    accuracy if the run has no attack) on validation images held out of training; ``best-on-test``
    uses the test images, as part of the literature does, and is always marked.
    PGD takes ``pgd_steps`` steps of 2.5 eps / ``pgd_steps``; ``eps`` is by default the training
    attack's radius.
    ``track_test`` measures clean accuracy on all test images after every epoch but does not select
    by it: the run records the last and the best value, since papers report either.
    """

    rule: Literal["last", "best-on-val", "best-on-test"] = identity("last")
    pgd_steps: int = identity(10, ge=1)
    eps: Radius | None = later_identity(None, le=1)
    track_test: bool = cost(False)


class TrainConfig(Section):
    """How the network is trained.

    With ``float64`` precision rounding errors are so small that a short training run has the same
    losses on every machine; ``bf16`` is automatic mixed precision.
    """

    epochs: int = identity(200, ge=1)
    batch_size: int = identity(128, ge=1)
    drop_last: bool = identity(False)
    optimizer: OptimizerConfig = identity(OptimizerConfig())
    attack: InnerAttackConfig | None = identity(None)
    weight_perturbation: WeightPerturbationConfig = identity(WeightPerturbationConfig())
    averaging: AveragingConfig = identity(AveragingConfig())
    batchnorm_replicas: int = identity(1, ge=1)
    selection: SelectionConfig = identity(SelectionConfig())
    precision: Literal["float32", "bf16", "float64"] = identity("float32")
    channels_last: bool = identity(False)
    compile: bool = identity(False)
    monitor: MonitorConfig = cost(MonitorConfig())
    checkpoint_every: int = cost(1, ge=1)


class TeacherConfig(Section):
    """The trained teacher network.

    ``arch`` is a registered network. ``source`` says where its weights come from: a run, given by
    its name or a prefix of it, a checkpoint file, ``torchvision:NAME``, ``timm:NAME``,
    ``robustbench:NAME``, ``package.module:function``, or ``auto``: the run of ``method``,
    ``recipe`` (``auto`` is the one named after the dataset), ``config`` (changes to the recipe) and
    ``seed``, which is trained first if it is missing. The teacher's seed is independent of the
    student's: as in the literature, all trials share one teacher.

    ``weights`` identifies the teacher and is computed: for ``auto`` the name of the run, which
    contains a hash of its configuration; for a run or a file the SHA-256 of the weights file; for a
    model zoo the ``source``; for a function a hash of the model that it returns. The other settings
    of the source are therefore not part of the identity.

    ``normalize`` (``dataset``, ``imagenet``, ``none`` or ``MEANS;STDS``) is for external weights
    that do not record how images were normalised; the default is the student's normalisation.
    ``weights_key`` names the weights to use in a file with several.

    ``minimum`` is the lowest accepted top-1 accuracy (a fraction) of the teacher on the test
    images. It can only reject a teacher, so it does not change the result. Without it a stored run
    or an external teacher must be better than random guessing.

    ``logits`` selects where teacher logits come from: a ``table`` on disk, shared with later
    epochs, students and methods, or a ``forward`` pass for each batch; ``auto`` uses the table
    where possible. Both give the same logits: bit for bit on a CPU, and up to rounding differences
    between batch sizes on a GPU. ``logits_dtype`` float16 rounds them in both.
    """

    arch: str = identity()
    weights: str | None = identity(None)
    source: str = cost("auto")
    method: str | None = cost(None)
    recipe: str = cost("auto")
    config: dict[str, JsonValue] = cost({})
    seed: int = cost(0, ge=0)
    minimum: float | None = cost(None, ge=0, le=1)
    logits: Literal["auto", "table", "forward"] = cost("auto")
    logits_dtype: Literal["float32", "float16"] = identity("float32")
    normalize: str | None = later_identity(None)
    weights_key: str | None = later_identity(None)


class RunConfig(Section):
    """One run: train with a method, then evaluate with a protocol.

    ``track`` also sends the epochs to other programs; see ``harness.store.tracking``.
    """

    method: str = identity()
    recipe: str = cost("custom")
    params: dict[str, JsonValue] = identity({})
    data: DataConfig = identity(DataConfig())
    model: ModelConfig = identity(ModelConfig())
    training: TrainConfig = identity(TrainConfig())
    teacher: TeacherConfig | None = later_identity(None)
    seed: int = identity(0, ge=0)
    evaluation: EvalConfig = cost(EvalConfig())
    device: str = cost("auto")
    track: tuple[Literal["tensorboard", "wandb"], ...] = cost(())
    results: Path = cost(Path("results"))

    @field_validator("track", mode="before")
    @classmethod
    def _split(cls, names: Any) -> Any:
        return split_names(names)

    @property
    def run_id(self) -> str:
        """The id of the trained model: the same for the same training, whatever the evaluation."""
        return f"{self.method}-{fingerprint(self.identity_payload())}"
