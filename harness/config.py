"""The configuration of a run, and the run's identity.

Every field is either part of the run's identity (it changes the answer) or a cost (it changes only
where, how fast or how verbosely the answer is found). ``identity(...)`` and ``cost(...)`` say
which; a test fails while a field says neither. Two runs with equal identities are the same run,
and the second one finishes or returns the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

STANDARD_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
AttackName = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
Norm = Literal["Linf", "L2"]


def identity(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes the answer."""
    return Field(default, json_schema_extra={"identity": True}, **constraints)


def cost(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes only the cost of the answer."""
    return Field(default, json_schema_extra={"identity": False}, **constraints)


def parse_fraction(value: Any) -> Any:
    """Accept ``"8/255"`` wherever a number is expected."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{value!r} is not a fraction such as 8/255") from error
    return value


def eps_text(eps: float) -> str:
    """A radius as papers write it: ``8/255``, or a decimal where it is no such fraction."""
    steps = eps * 255
    return f"{steps:.0f}/255" if steps and abs(steps - round(steps)) < 1e-6 else f"{eps:.4g}"


Radius = Annotated[float, BeforeValidator(parse_fraction), Field(gt=0)]


class Strict(BaseModel):
    """Base of what is read from users or files: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any, info: ValidationInfo) -> Any:
        # What the database's columns hold of seeds, and of counts.
        largest = 2 ** (63 if info.field_name == "seed" else 31) - 1
        if isinstance(value, int) and value > largest:
            raise ValueError(f"at most {largest}")
        return value


class Section(Strict):
    """Base of all parts of the configuration."""

    def identity_payload(self) -> dict[str, Any]:
        """The fields that change the answer, nested, ready for JSON."""
        payload: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            if not isinstance(info.json_schema_extra, dict):
                raise TypeError(f"{type(self).__name__}.{name} is neither identity nor cost")
            if not info.json_schema_extra["identity"]:
                continue
            value = getattr(self, name)
            payload[name] = (
                value.identity_payload()
                if isinstance(value, Section)
                else self.model_dump(mode="json", include={name})[name]
            )
        return payload


class DataConfig(Section):
    """Which images, and how they are changed at random for training.

    ``crop_mode`` is what the border of the random crop shows: ``zero`` or the image's reflection.
    ``rotation`` is the largest angle of a random rotation in degrees. ``generated_fraction`` of
    each batch comes from the npz archive ``generated``, whose set is called ``generated_name`` and
    published by ``generated_source``; ``augment_generated`` changes those images too.
    ``generated_epoch`` is how long an epoch with N original images is: ``images`` ends it after N
    images of both kinds, ``originals`` after N original ones.
    """

    name: str = identity("digits")
    root: Path | None = cost(None)
    train_limit: int | None = identity(None, ge=1)
    val_size: int = identity(0, ge=0)
    crop_padding: int = identity(4, ge=0)
    flip: bool = identity(True)
    crop_mode: Literal["zero", "reflect"] = identity("zero")
    rotation: float = identity(0.0, ge=0, le=180)
    generated: Path | None = cost(None)
    generated_name: str | None = identity(None)
    generated_source: str | None = cost(None)
    generated_fraction: float = identity(0.0, ge=0, lt=1)
    generated_epoch: Literal["images", "originals"] = identity("images")
    augment_generated: bool = identity(True)
    workers: int = cost(2, ge=0)


class ModelConfig(Section):
    """Which network."""

    arch: str = identity("resnet8")
    normalize: bool = identity(False)


class InnerAttackConfig(Section):
    """The inner maximisation of adversarial training.

    ``step_rule`` names how the radius eps_e of epoch e is walked: ``fixed`` takes ``steps`` steps
    of ``step_size``; ``five-halves`` five steps of eps_e/2; ``two-full`` two steps of eps_e;
    ``staged`` 2, 3, 4, 5 steps of eps_e, 2 eps_e/3, eps_e/2, eps_e/2 over the four quarters of
    training.
    ``ramp`` is how eps_e grows: ``none`` (eps_e = eps) or ``linear`` (eps_e = eps e / E).
    ``start`` is the first point: ``gaussian`` x + 0.001 N(0, 1), ``uniform`` in the ball, or
    ``clean``.
    ``model_mode`` is the network's mode in the attack; ``train-frozen`` uses batch statistics
    without moving the running ones.
    """

    norm: Literal["Linf"] = identity("Linf")
    eps: Radius = identity(8 / 255, le=1)
    ramp: Literal["none", "linear"] = identity("none")
    step_rule: Literal["fixed", "five-halves", "two-full", "staged"] = identity("fixed")
    steps: int = identity(10, ge=1)
    step_size: Radius = identity(2 / 255)
    start: Literal["gaussian", "uniform", "clean"] = identity("gaussian")
    model_mode: Literal["eval", "train", "train-frozen"] = identity("eval")


class WeightPerturbationConfig(Section):
    """Adversarial weight perturbation (Wu et al., 2020): off where gamma is 0."""

    gamma: float = identity(0.0, ge=0)
    start_epoch: int = identity(10, ge=1)


class OptimizerConfig(Section):
    """Stochastic gradient descent and its learning-rate schedule.

    Schedules give the rate of epoch e in 1..E from the base rate: ``cosine`` is
    lr (1 + cos(pi (e-1)/E)) / 2, ``cosine-inclusive`` the same with e/(E+1), ``steps`` multiplies
    by ``gamma`` after each epoch in ``milestones``, ``constant`` leaves it, ``onecycle`` rises
    along a cosine from lr/25 to lr over the share ``pct_start`` of the epochs and falls along
    another to lr/250000; with ``cycle_momentum`` the momentum meanwhile falls from 0.95 to 0.85 and
    rises again.
    ``warmup_epochs`` scales the rate by e/(warmup+1) before the schedule's full height;
    ``first_epoch_factor`` scales that of epoch 1.
    ``decay`` says what ``weight_decay`` acts on: ``all`` parameters, ``not-norm`` all but those of
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
    pct_start: float = identity(0.025, ge=0, le=1)
    cycle_momentum: bool = identity(False)
    milestones: tuple[int, ...] = identity(())
    gamma: float = identity(0.1, gt=0)
    warmup_epochs: int = identity(0, ge=0)
    first_epoch_factor: float = identity(1.0, gt=0)


class AveragingConfig(Section):
    """Exponential moving average of the weights; the average is the model that is evaluated.

    ``epoch`` updates it after each epoch from ``start_epoch`` on, ``step`` after each step; the
    epochs within the first ``start_fraction`` of all are left out too. With ``decay_warmup`` the
    d-th update after the first has decay min(decay, (1 + d) / (10 + d)). ``buffers`` of BatchNorm
    are ``averaged`` like weights, or the ``live`` model's.
    """

    kind: Literal["none", "epoch", "step"] = identity("none")
    decay: float = identity(0.9, ge=0, lt=1)
    start_epoch: int = identity(1, ge=1)
    start_fraction: float = identity(0.0, ge=0, lt=1)
    decay_warmup: bool = identity(False)
    buffers: Literal["averaged", "live"] = identity("averaged")


class MonitorConfig(Section):
    """Per-epoch clean and PGD accuracy on images held out of training, for watching a run."""

    every: int = cost(1, ge=0)
    images: int = cost(256, ge=1)
    pgd_steps: int = cost(10, ge=0)


class SelectionConfig(Section):
    """Which epoch's weights are the result.

    ``last`` is the last epoch's. ``best-on-val`` is the epoch of highest PGD accuracy (clean
    accuracy where the run has no attack) on images held out of training; ``best-on-test`` takes the
    test images, as parts of the literature do, and is marked wherever it is shown.
    ``track_test`` measures clean accuracy on all test images after every epoch and chooses nothing
    by it: the run then records the last epoch's and the best one's, as both are reported.
    """

    rule: Literal["last", "best-on-val", "best-on-test"] = identity("last")
    pgd_steps: int = identity(10, ge=1)
    track_test: bool = cost(False)


class TrainConfig(Section):
    """How the network is trained.

    ``precision`` is the arithmetic: with ``float64`` rounding is so fine that the losses of a short
    training are the same on every machine. ``bf16`` is automatic mixed precision.
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
    """The trained network that the run's network learns from.

    ``arch`` is a registered network. ``source`` says where its weights are: a run by its name or
    the beginning of it, a checkpoint file, ``torchvision:NAME``, or ``auto``: the run that
    ``method``, ``recipe`` (``auto`` is the one named like the data set), ``config`` (settings laid
    on the recipe) and ``seed`` describe, which is trained first where it is missing. Its seed is
    not the student's: as in the literature, all trials have one teacher.

    ``weights`` is what tells teachers apart. It is found, not given: for ``auto`` the name of the
    run, which is a hash of its configuration; for a run or a file the SHA-256 of the weights; for
    torchvision its name of them. What leads to the weights is therefore no part of the identity.

    ``minimum`` is the least top-1 accuracy (a fraction) on the test images with which a student
    starts. It can only refuse a teacher, so it changes no answer.

    ``logits`` says whether a task's teacher logits are kept in a ``table`` on the disk, which later
    epochs, students and methods read, or computed by a ``forward`` pass for each batch; ``auto`` is
    the table where there can be one. Both give the same logits: on a CPU to the last bit, on a GPU
    as closely as batches of other sizes do. ``logits_dtype`` float16 rounds them in both.
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


class AttackBudget(Section):
    """How long attacks search; the defaults are those of standard AutoAttack.

    Attributes:
        n_iter: iterations of APGD and FAB.
        n_restarts: random restarts of each attack.
        n_queries: queries of Square.
        n_target_classes: classes that targeted attacks aim at, at most C - 1.
    """

    n_iter: int = identity(100, ge=1)
    n_restarts: int = identity(1, ge=1)
    n_queries: int = identity(5000, ge=1)
    n_target_classes: int = identity(9, ge=1)


class EvalSettings(Section):
    """What the evaluations of one configuration share: all but the radius.

    Attributes:
        norm: the threat model's norm.
        attacks: stages in order; each attacks only what survived the ones before it.
        budget: how long they search; another than the standard one labels the result.
        limit: evaluate the first so many test images; such a result is marked partial.
        chunk_size: images per unit of work; part of the protocol, as each chunk has its own seed.
        seed: from it and the chunk's number each chunk's seed is derived.
        accelerate: fold BatchNorm and choose fast layouts; verdicts are re-judged without it.
        precision: ``bf16`` is not the standard protocol and never ranks with it.
        compile: compile the accelerated network.
        device_batch: images per forward pass; None is the whole chunk.
        workers: processes that share the chunks.
        save_adversarial: keep the adversarial images.
    """

    norm: Norm = identity("Linf")
    attacks: tuple[AttackName, ...] = identity(STANDARD_ATTACKS)
    budget: AttackBudget = identity(AttackBudget())
    limit: int | None = identity(None, ge=1)
    chunk_size: int = identity(250, ge=1)
    seed: int = identity(0, ge=0)
    accelerate: bool = identity(True)
    precision: Literal["float32", "bf16"] = identity("float32")
    compile: bool = cost(False)
    device_batch: int | None = cost(None, ge=1)
    workers: int = cost(1, ge=1)
    save_adversarial: Literal["no", "float32", "uint8"] = cost("no")

    @field_validator("attacks", mode="before")
    @classmethod
    def _split(cls, attacks: Any) -> Any:
        is_text = isinstance(attacks, str)
        return tuple(filter(None, map(str.strip, attacks.split(",")))) if is_text else attacks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.attacks)) != len(self.attacks):
            raise ValueError(f"an attack is named twice in {', '.join(self.attacks)}")
        if self.compile and not self.accelerate:
            raise ValueError("compile needs accelerate: it is the accelerated copy that compiles")
        return self

    def identity_payload(self) -> dict[str, Any]:
        """The fields that change the answer; the standard budget is left out.

        Standard evaluations keep the names they had before the budget was a setting.
        """
        payload = super().identity_payload()
        if self.budget == AttackBudget():
            del payload["budget"]
        return payload


class EvalProtocol(EvalSettings):
    """The protocol of one evaluation: one radius in pixel space, images being in [0, 1]."""

    eps: Radius = identity(8 / 255)


class EvalConfig(EvalSettings):
    """The evaluations of a model: one for each radius.

    Attributes:
        eps: radii in pixel space, ascending, images being in [0, 1]; at 0 nothing is attacked. It
            may be given as a number, as text such as ``0,2/255,8/255``, or as a list of either.
    """

    eps: tuple[float, ...] = identity((8 / 255,))

    @field_validator("eps", mode="before")
    @classmethod
    def _radii(cls, eps: Any) -> tuple[float, ...]:
        parts = eps.split(",") if isinstance(eps, str) else eps
        parts = parts if isinstance(parts, list | tuple) else [parts]
        radii = sorted(_radius(part) for part in parts)
        if not radii:
            raise ValueError("give at least one radius")
        if len(set(radii)) < len(radii):
            raise ValueError("a radius is there twice: leave one out")
        return tuple(radii)

    @field_validator("eps")
    @classmethod
    def _within_images(cls, eps: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if info.data.get("norm") == "Linf" and eps[-1] > 1:
            raise ValueError("images lie in [0, 1], so a Linf radius is at most 1")
        return eps

    @field_serializer("eps")
    def _plain(self, eps: tuple[float, ...]) -> float | list[float]:
        # One radius stays a number, as in the records of releases that allowed only one.
        return eps[0] if len(eps) == 1 else list(eps)

    def protocols(self) -> tuple[EvalProtocol, ...]:
        """One protocol for each radius, ascending.

        At radius 0 there is no attack, and the radius is the default one: clean accuracy is then
        the same evaluation whatever else was asked for.
        """
        shared = self.model_dump(exclude={"eps"})
        return tuple(
            EvalProtocol(**shared, eps=eps) if eps else EvalProtocol(**{**shared, "attacks": ()})
            for eps in self.eps
        )


def _radius(value: Any) -> float:
    try:
        eps = float(parse_fraction(value.strip() if isinstance(value, str) else value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no radius such as 8/255 or 0.5") from error
    if not 0 <= eps < float("inf"):
        raise ValueError(f"{value} is no radius: give 0 or more")
    return eps


class RunConfig(Section):
    """One run: train by a method, then evaluate by a protocol."""

    method: str = identity()
    recipe: str = cost("custom")
    params: dict[str, JsonValue] = identity({})
    data: DataConfig = identity(DataConfig())
    model: ModelConfig = identity(ModelConfig())
    training: TrainConfig = identity(TrainConfig())
    teacher: TeacherConfig | None = identity(None)
    seed: int = identity(0, ge=0)
    evaluation: EvalConfig = cost(EvalConfig())
    device: str = cost("auto")
    results: Path = cost(Path("results"))

    def identity_payload(self) -> dict[str, Any]:
        """The fields that change the answer; without a teacher none is named.

        Runs without one keep the names they had before there were teachers.
        """
        payload = super().identity_payload()
        if self.teacher is None:
            del payload["teacher"]
        return payload

    @property
    def run_id(self) -> str:
        """Names the trained model: equal for equal training, whatever the evaluation."""
        return f"{self.method}-{fingerprint(self.identity_payload())}"


def fingerprint(payload: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of the payload."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it, section by section; neither is changed.

    ``params`` merges like a section. A None in ``over`` replaces a section.
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def assign(path: str, value: Any) -> dict[str, Any]:
    """``assign("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    head, _, rest = path.partition(".")
    return {head: assign(rest, value) if rest else value}


def flat(payload: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``flat({"a": {"b": 1}})`` is ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in payload.items():
        found |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found
