"""Adversarial training on images of a proxy distribution (Sehwag et al., 2022)."""

from __future__ import annotations

from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, Task, TaskContext
from methods._papers import cite
from methods._recipes import CHOSEN_ON_TEST, SMALL, Overrides, adversarial, by_dataset, changed
from methods.adversarial._generated import images
from methods.adversarial.pgd_at import PgdAtParams, PgdAtTask
from methods.adversarial.trades import TradesParams, TradesTask


class ProxyParams(Params):
    """The loss of the mixed batches, ``pgd`` or ``trades``, and the weight of the latter."""

    loss: Literal["pgd", "trades"] = "pgd"
    kl_weight: float = Field(6.0, ge=0)

    @model_validator(mode="after")
    def _weight_is_used(self) -> Self:
        default = type(self).model_fields["kl_weight"].default
        if self.loss != "trades" and self.kl_weight != default:
            raise ValueError(
                f"kl_weight has no effect on loss {self.loss}: leave it out, or set loss to trades"
            )
        return self


class ProxyPgdTask(PgdAtTask):
    """PGD adversarial training whose steps begin with a clean forward pass, as released.

    The model is in training mode during the attack, so this pass changes BatchNorm's running
    statistics.
    """

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """CE(o_n, y), after the clean pass."""
        model(batch.x)
        return super().attack_objective(model, batch)


def proxy_task(params: ProxyParams, context: TaskContext) -> Task:
    """PGD adversarial training or TRADES, by ``params.loss``."""
    if params.loss == "trades":
        return TradesTask(TradesParams(kl_weight=params.kl_weight), context)
    return ProxyPgdTask(PgdAtParams(), context)


def _training(dataset: str) -> Overrides:
    attack = {"start": "uniform", "model_mode": "train"}
    return merge(adversarial(dataset), {"training": {"attack": attack}})


def _mixed(dataset: str, size: str) -> Overrides:
    """128 original and 128 generated images per batch, 100 passes over the originals."""
    base = merge(_training(dataset), images(f"ddpm-{size}", SOURCE, fraction=0.5))
    augmented = dataset != "cifar10"
    selection = {"rule": "best-on-val", "pgd_steps": 10}
    released: Overrides = {
        "data": {"generated_epoch": "originals", "augment_generated": augmented, "val_size": 1000},
        "training": {"epochs": 100, "batch_size": 256, "selection": selection},
    }
    return merge(base, released)


def _by_dataset(dataset: str) -> Overrides:
    if dataset in SMALL:
        return _training(dataset)
    return _mixed(dataset, "10m" if dataset == "cifar10" else "1m")


SOURCE = "Sehwag et al. (2022) with the repository proxy-distributions"

METHOD = Method(
    card=MethodCard(
        title="Proxy distributions (Sehwag et al.)",
        family="adversarial",
        summary="Adversarial training on equal numbers of original images and of images generated "
        "from a distribution close to that of the data.",
        formula=(
            r"\max_{\|x_n - x\|_\infty \le \epsilon} \mathrm{CE}(o_n, y) \;\text{ or }\; "
            r"\mathrm{CE}(o_m, y) + \mathtt{kl\_weight}\, D_{\mathrm{KL}}(s_m \,\|\, s_n)"
        ),
        **cite("sehwag2022robust"),
        tables=(2, 4),
        notes=(
            "The released code offers PGD adversarial training and TRADES with weight 6; it is not "
            "known which of them gave the printed rows. The parameter loss chooses, by default "
            "pgd. Under trades the attack maximises KL.",
            "Under pgd each step begins with a forward pass on the clean images in training mode, "
            "as released for the log: it changes BatchNorm's running statistics. Under trades this "
            "pass gives the attack its clean predictions; the released code then attacks in eval "
            "mode from Gaussian noise and clean images go first, while here the attack is in "
            "training mode from uniform noise and adversarial images go first.",
            "An epoch is one pass over the original images, 128 in each batch of 256. Generated "
            "images are neither cropped nor flipped on CIFAR-10, as released.",
            "The released learning rate falls with each step to 0.001; here it falls between "
            "epochs, to nearly zero.",
            "The released training and the recipes of the tables choose the epoch by robust "
            "accuracy on the test images; the datasets' recipes choose it on 1,000 held-out "
            "training images.",
            "Small-scale recipes train without generated images, since none exist.",
        ),
        released_names={"kl_weight": "beta"},
    ),
    params=ProxyParams,
    task=proxy_task,
    recipes={
        **by_dataset(_by_dataset),
        "table2/proxy-1m": changed(partial(_mixed, "cifar100", "1m"), CHOSEN_ON_TEST),
        "table4/proxy-10m": changed(partial(_mixed, "cifar10", "10m"), CHOSEN_ON_TEST),
    },
)
