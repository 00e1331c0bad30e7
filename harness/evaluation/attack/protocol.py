"""The protocol of an evaluation: its checks, id and seeds, and the name of its attacks."""

from __future__ import annotations

import importlib.metadata
import math

from harness.config import (
    STANDARD_ATTACKS,
    AttackBudget,
    EvalConfig,
    EvalProtocol,
    Norm,
    eps_text,
    fingerprint,
)
from harness.data.base import DatasetInfo, ImageSource, check_limit
from harness.errors import UserError
from harness.evaluation.attack.stages import DLR_CLASSES, TARGETED, target_classes
from harness.seeding import derive_seed

PACKAGE = "pyautoattack"


def chunk_seed(seed: int, chunk: int) -> int:
    """Return the seed of a chunk's attacks, in [0, 2**63), as torch and the attacks accept it."""
    return derive_seed(seed, "chunk", chunk)


def attack_version(protocol: EvalProtocol, num_classes: int) -> str:
    """Name the attacks for quoting next to a number, with all deviations from the standard ones."""
    attacks, budget = protocol.attacks, protocol.budget
    name = "standard" if attacks == STANDARD_ATTACKS else f"custom({','.join(attacks)})"
    parts = [name, f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"]
    standard = AttackBudget().model_dump()
    changed = [f"{k}={v}" for k, v in budget.model_dump().items() if v != standard[k]]
    if changed:
        parts.append(f"budget({','.join(changed)})")
    targets = target_classes(budget, num_classes)
    if targets < budget.n_target_classes and any(name in TARGETED for name in attacks):
        parts.append(f"targets({targets})")
    if num_classes < DLR_CLASSES and "apgd-t" in attacks:
        parts.append("margin-loss")
    if protocol.order == "random":
        parts.append("sequential")
    return " ".join(parts)


def check_protocol(config: EvalConfig, images: ImageSource) -> None:
    """Check an evaluation's settings against the images.

    Raises:
        UserError: the limit exceeds the number of images, or a radius their diameter.
    """
    check_limit("evaluation.limit", config.limit, images)
    check_radii(config, images.info)


def check_radii(config: EvalConfig, info: DatasetInfo) -> None:
    """Raise ``UserError`` if a radius exceeds the diameter of the dataset's images."""
    check_diameter(config.norm, config.eps[-1], info.channels * info.image_size**2)


def check_diameter(norm: Norm, eps: float, pixels: int) -> None:
    """Raise ``UserError`` if a radius exceeds the diameter of [0, 1]**pixels in the norm."""
    diameter = 1.0 if norm == "Linf" else math.sqrt(pixels)
    if eps > diameter:
        raise UserError(
            f"the {norm} radius {eps_text(eps)} is larger than any distance between two images, "
            f"{diameter:.4g}: give a smaller --eps, for images in [0, 1]"
        )


def is_standard(protocol: EvalProtocol, num_classes: int) -> bool:
    """Whether a result may be called AutoAttack without qualification."""
    standard = AttackBudget()
    return (
        protocol.attacks == STANDARD_ATTACKS
        and protocol.order == "file"
        and protocol.budget == standard
        and target_classes(protocol.budget, num_classes) == standard.n_target_classes
        and protocol.precision == "float32"
    )


def evaluation_id(
    protocol: EvalProtocol, num_classes: int, *, data_sha256: str, model_sha256: str
) -> str:
    """Return the id of an evaluation: equal for equal protocol, images and weights."""
    return fingerprint(
        {
            "protocol": protocol.identity_payload(),
            "attack_version": attack_version(protocol, num_classes),
            "data": data_sha256,
            "model": model_sha256,
        }
    )
