"""The configuration of evaluations: attacks, radii, budget and images."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_serializer, field_validator, model_validator

from harness.config.base import (
    Radius,
    Section,
    cost,
    identity,
    later_identity,
    parse_fraction,
    split_names,
)

STANDARD_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
# Named sets of attacks; the fast pair leaves out FAB and Square.
ATTACK_SETS = {"standard": STANDARD_ATTACKS, "fast": ("apgd-ce", "apgd-t"), "none": ()}
AttackName = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
Norm = Literal["Linf", "L2"]


class AttackBudget(Section):
    """The attacks' budget; the defaults are those of standard AutoAttack.

    Attributes:
        n_iter: iterations of APGD and FAB.
        n_restarts: random restarts of each attack.
        n_queries: queries of Square.
        n_target_classes: target classes of the targeted attacks, at most C - 1.
    """

    n_iter: int = identity(100, ge=1)
    n_restarts: int = identity(1, ge=1)
    n_queries: int = identity(5000, ge=1)
    n_target_classes: int = identity(9, ge=1)


class EvalSettings(Section):
    """Settings shared by the evaluations of one configuration: all but the radius.

    Attributes:
        norm: the threat model's norm.
        attacks: stages in order, or a name in ``ATTACK_SETS``; each stage attacks only the images
            that survived the earlier ones.
        budget: the attacks' budget; a result with a budget other than the standard is labelled.
        limit: evaluate only this many test images, from the first; such a result is marked partial.
        order: ``random`` draws images in an order derived from the seed, so that an evaluation
            can stop early. Such a result is sequential: it can be extended, and is never ranked
            with a result on all images in the order of the file.
        half_width: with random order, stop once the confidence interval of robust accuracy, valid
            at any stopping time, has at most this half-width.
        n_max: with random order, stop after this many images (rounded up to whole chunks). Neither
            this nor ``half_width`` changes a verdict, so neither is part of the protocol.
        chunk_size: images per unit of work; part of the protocol, since each chunk has its own
            seed.
        seed: each chunk's seed is derived from it and the chunk's number.
        accelerate: attack a copy with BatchNorm folded and fast layouts; verdicts are checked
            again on the model itself.
        precision: ``bf16`` is not the standard protocol and is never ranked with it.
        compile: compile the accelerated network.
        graph_sizes: on a GPU, record the accelerated network's passes once as CUDA graphs of these
            batch sizes, and replay them; batches are padded to the next size.
        device_batch: images per forward pass; None is the whole chunk.
        workers: processes that share the chunks.
        save_adversarial: keep the adversarial images.
    """

    norm: Norm = identity("Linf")
    attacks: tuple[AttackName, ...] = identity(STANDARD_ATTACKS)
    budget: AttackBudget = later_identity(AttackBudget())
    limit: int | None = identity(None, ge=1)
    order: Literal["file", "random"] = later_identity("file")
    half_width: float | None = cost(None, gt=0, lt=0.5)
    n_max: int | None = cost(None, ge=1)
    chunk_size: int = identity(250, ge=1)
    seed: int = identity(0, ge=0)
    accelerate: bool = identity(True)
    precision: Literal["float32", "bf16"] = identity("float32")
    compile: bool = cost(False)
    graph_sizes: tuple[Annotated[int, Field(ge=1)], ...] = cost(())
    device_batch: int | None = cost(None, ge=1)
    workers: int = cost(1, ge=1)
    save_adversarial: Literal["no", "float32", "uint8"] = cost("no")

    @field_validator("attacks", mode="before")
    @classmethod
    def _split(cls, attacks: Any) -> Any:
        named = ATTACK_SETS.get(attacks) if isinstance(attacks, str) else None
        return split_names(attacks) if named is None else named

    @field_validator("graph_sizes", mode="before")
    @classmethod
    def _split_sizes(cls, sizes: Any) -> Any:
        return (sizes,) if isinstance(sizes, int) else split_names(sizes)

    @field_validator("graph_sizes")
    @classmethod
    def _ascending(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(sizes)))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.attacks)) != len(self.attacks):
            raise ValueError(f"an attack is named twice in {', '.join(self.attacks)}")
        if self.order == "file" and (self.half_width or self.n_max):
            raise ValueError("half_width and n_max need order=random: set evaluation.order=random")
        if self.order == "random" and self.limit:
            raise ValueError(
                "a limit takes the first images, but n_max, half_width and order=random draw them "
                "at random: give n_max or limit, not both"
            )
        if self.compile and not self.accelerate:
            raise ValueError("compile needs accelerate: only the accelerated copy is compiled")
        if self.graph_sizes and (self.compile or not self.accelerate):
            raise ValueError(
                "graph_sizes needs accelerate without compile: only the passes of the accelerated, "
                "uncompiled copy are recorded"
            )
        if self.graph_sizes and self.device_batch and self.device_batch < self.graph_sizes[0]:
            raise ValueError(
                f"device_batch={self.device_batch} allows none of graph_sizes, whose smallest is "
                f"{self.graph_sizes[0]}"
            )
        return self


class EvalProtocol(EvalSettings):
    """The protocol of one evaluation, with one radius in pixel space for images in [0, 1]."""

    eps: Radius = identity(8 / 255)


class EvalConfig(EvalSettings):
    """The evaluations of a model: one for each radius.

    Attributes:
        eps: radii in pixel space, ascending, for images in [0, 1]; at 0 nothing is attacked. Can
            be given as a number, as text such as ``0,2/255,8/255``, or as a list of either.
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
            raise ValueError("a radius is given twice: leave one out")
        return tuple(radii)

    @field_validator("eps")
    @classmethod
    def _within_images(cls, eps: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if info.data.get("norm") == "Linf" and eps[-1] > 1:
            raise ValueError("images are in [0, 1], so a Linf radius is at most 1")
        return eps

    @field_serializer("eps")
    def _plain(self, eps: tuple[float, ...]) -> float | list[float]:
        # A single radius stays a number, as in records of releases that allowed only one.
        return eps[0] if len(eps) == 1 else list(eps)

    def protocols(self) -> tuple[EvalProtocol, ...]:
        """One protocol for each radius, ascending.

        At radius 0 there are no attacks and the protocol has the default radius, so that clean
        accuracy is the same evaluation whatever other radii and stages are requested.
        """
        shared = self.model_dump(exclude={"eps"})
        return tuple(
            EvalProtocol(**shared, eps=eps) if eps else EvalProtocol(**{**shared, "attacks": ()})
            for eps in self.eps
        )


def parse_budget(text: str) -> dict[str, Any]:
    """Attacks and their budget from text such as ``fast``, ``n_iter=20`` or ``fast,n_iter=20``.

    A name selects the attacks, with the standard budget; numbers then change parts of the budget.

    Returns:
        Settings of an evaluation.

    Raises:
        ValueError: a part of the text is neither a leading name nor such a number.
    """
    parts = list(split_names(text)) or [""]
    settings: dict[str, Any] = {"budget": {}}
    if parts[0] in ATTACK_SETS:
        settings = {"attacks": parts.pop(0), "budget": AttackBudget().model_dump()}
    for part in parts:
        what, _, number = (each.strip() for each in part.partition("="))
        if what not in AttackBudget.model_fields or not number.isdecimal():
            raise ValueError(
                f"{part!r} is not a budget such as fast, n_iter=20 or fast,n_iter=20: give a name "
                f"({', '.join(ATTACK_SETS)}) and then numbers "
                f"({', '.join(AttackBudget.model_fields)})"
            )
        settings["budget"][what] = int(number)
    return settings


def _radius(value: Any) -> float:
    try:
        eps = float(parse_fraction(value.strip() if isinstance(value, str) else value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is not a radius such as 8/255 or 0.5") from error
    if not 0 <= eps < float("inf"):
        raise ValueError(f"{value} is not a radius: give 0 or more")
    return eps
