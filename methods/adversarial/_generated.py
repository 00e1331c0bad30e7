"""Loss, parameters and recipes shared by the methods on generated images."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from harness.config import merge
from harness.method import Batch, Forward, Recipe, StepOutput
from methods._recipes import SMALL, Overrides, adversarial, by_dataset
from methods._steps import detached
from methods.adversarial.trades import TradesParams, TradesTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence

FORMULA = (
    r"\mathrm{CE}(o_m, (1 - \mathtt{label\_smoothing})\, e_y + \mathtt{label\_smoothing} / C) "
    r"+ \mathtt{kl\_weight}\, D_{\mathrm{KL}}(s_m \,\|\, s_n), \quad "
    r"x_n = \arg\max_{\|x' - x_m\|_\infty \le \epsilon} D_{\mathrm{KL}}(s_m \,\|\, s(x'))"
)

ATTACK_MODE_NOTE = (
    "During the attack BatchNorm uses batch statistics and leaves its running statistics "
    "unchanged, as released."
)
# Notes on the shared training for all cards that use it.
TRAINING_NOTES = (
    ATTACK_MODE_NOTE,
    "Weights are averaged over steps; BatchNorm's running statistics are those of the live model. "
    "On CIFAR the epoch is chosen on 1,024 held-out training images, drawn at random, by PGD-40 on "
    "cross-entropy with steps of 0.5/255. The released training holds out the first 1,024 and uses "
    "a margin loss and steps of 2/255. Of equally good epochs the released code keeps the latest; "
    "here the earliest is kept.",
    "The CIFAR-100 images are also rotated by up to 15 degrees, as released.",
    "Small-scale recipes train without generated images, since none exist; --generated FILE, "
    "data.generated_fraction and data.generated_name add generated images to any dataset.",
)


class SmoothedTradesParams(TradesParams):
    """The weight of the divergence and the smoothing of the labels."""

    kl_weight: float = Field(5.0, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class PortedParams(SmoothedTradesParams):
    """``SmoothedTradesParams`` with the weight used by the public port of two earlier works."""

    kl_weight: float = Field(6.0, ge=0)


class SmoothedTradesTask(TradesTask):
    """TRADES with smoothed labels."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """Smoothed CE(o_m, y) + kl_weight KL(s_m || s_n); clean images go first, as released."""
        clean_BC, adv_BC = model(batch.x), model(batch.adversarial)
        ce = label_cross_entropy(clean_BC, batch.targets, self.params.label_smoothing)
        kl = kl_divergence(clean_BC, adv_BC)
        return StepOutput(ce + self.params.kl_weight * kl, detached(ce=ce, kl=kl))


def one_cycle(dataset: str) -> Overrides:
    """The released training on generated images, without the images.

    A wide model with a smooth activation and standardised input is trained with a one-cycle
    schedule, from whose peak on weights are averaged over steps. The original images determine the
    number of steps per epoch.
    """
    optimizer = {"lr": 0.2, "nesterov": True, "decay": "not-norm", "schedule": "onecycle"}
    averaging = {"kind": "step", "decay": 0.995, "decay_warmup": True, "buffers": "live"}
    training: Overrides = {
        "optimizer": {**optimizer, "pct_start": 0.025, "cycle_momentum": True},
        "attack": {"start": "uniform", "model_mode": "train-frozen"},
        "averaging": {**averaging, "start_fraction": 0.025},
    }
    base = merge(adversarial(dataset), {"training": training})
    if dataset in SMALL:
        return merge(base, {"training": {"optimizer": {"lr": 0.1, "pct_start": 0.2}}})
    released: Overrides = {
        "data": {"val_size": 1024, "rotation": 15.0 if dataset == "cifar100" else 0.0},
        "model": {"arch": "wrn-28-10-silu", "normalize": True},
        "training": {
            "epochs": 400,
            "batch_size": 512,
            "selection": {"rule": "best-on-val", "pgd_steps": 40},
        },
    }
    return merge(base, released)


def images(name: str, source: str, fraction: float = 0.7) -> Overrides:
    """Settings for a named set of generated images that make up ``fraction`` of each batch."""
    generated = {"generated_name": name, "generated_source": source, "generated_fraction": fraction}
    return {"data": generated}


EDM_SOURCE = "Wang et al. (2023) with the repository DM-Improves-AT"
DDPM_SOURCE = "Rebuffi et al. and Gowal et al. (2021) with the repository deepmind-research"

# Batch size and epochs for 20 and 50 million images, by dataset.
LONG = {
    ("cifar10", "20m"): {"batch_size": 2048, "epochs": 2400},
    ("cifar10", "50m"): {"batch_size": 2048, "epochs": 1600},
    ("cifar100", "50m"): {"batch_size": 2048, "epochs": 1600},
}
LONG_NOTE = (
    "Batch size 2048, and 2,400 epochs for 20 million images or 1,600 for 50 million, have not "
    "been checked against the released code."
)


def edm(dataset: str, size: str) -> Overrides:
    """Training on ``size`` (1m, 20m, 50m) images of the elucidated diffusion model."""
    base = merge(one_cycle(dataset), images(f"edm-{size}", EDM_SOURCE))
    return merge(base, {"training": LONG.get((dataset, size), {})})


def ddpm(dataset: str, size: str) -> Overrides:
    """Training on ``size`` (1m, 100m) images of the denoising diffusion model."""
    return merge(one_cycle(dataset), images(f"ddpm-{size}", DDPM_SOURCE))


def ported(dataset: str, size: str) -> Overrides:
    """``ddpm`` with the settings of the public port that trains two earlier works."""
    wide: Overrides = {"training": {"batch_size": 1024, "optimizer": {"lr": 0.4}}}
    return merge(ddpm(dataset, size), wide)


PORT_NOTE = (
    "The authors' own trainer uses another framework. These are the settings of its public port: "
    "batch size 1024, learning rate 0.4 and 400 epochs."
)


def by_generated(cifar: Callable[[str], Overrides]) -> dict[str, Recipe]:
    """One recipe per dataset: ``cifar`` with generated images, small datasets without."""
    return by_dataset(lambda dataset: one_cycle(dataset) if dataset in SMALL else cifar(dataset))
