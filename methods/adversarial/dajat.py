"""DAJAT: ACAT with AutoAugment views that have separate BatchNorms (Addepalli et al., 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config import merge
from harness.method import (
    Batch,
    Forward,
    LookaheadStep,
    Method,
    MethodCard,
    StepOutput,
    TaskContext,
)
from harness.training.modes import batchnorms
from methods._papers import cite
from methods._recipes import SMALL, Overrides, by_dataset
from methods._steps import detached
from methods.adversarial.acat import AcatParams, AcatTask, acat_training
from methods.losses.divergence import jensen_shannon

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
JS_WEIGHTS = {"cifar10": 3.0, "cifar100": 2.0}


class DajatParams(AcatParams):
    """ACAT's parameters, the number of AutoAugment views, and the weight of their divergence."""

    views: int = Field(2, ge=0)
    js_weight: float = Field(2.0, ge=0)


class DajatTask(AcatTask):
    """ACAT's loss on an image and on views of it, plus a Jensen-Shannon divergence of all views.

    The views share the model's weights but have separate BatchNorms, which belong to the task. The
    engine optimises these together with the model and stores them in checkpoints; they are not part
    of the result.
    """

    def __init__(self, params: DajatParams, context: TaskContext) -> None:
        """Copy the model's BatchNorms."""
        super().__init__(params, context)
        self.autoaugmented_views = params.views
        self.norms = nn.ModuleList(map(deepcopy, self._model_norms() if params.views else ()))

    def before_attack(self, batch: Batch, view: LookaheadStep) -> None:
        """Attack the views like the images, each from its own clean predictions."""
        with self._view_norms():
            for other in batch.others:
                other.x_adv = view.attack(other)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The mean of ACAT's loss over all views + js_weight JS of their clean predictions."""
        if len(batch.others) != self.autoaugmented_views:
            raise RuntimeError(
                f"this batch has {len(batch.others)} further views, not {self.autoaugmented_views}"
            )
        smoothing = self.params.label_smoothing
        terms = [self.view_terms(model, batch, smoothing)]
        with self._view_norms():
            terms += [self.view_terms(model, other, smoothing) for other in batch.others]
        clean, ce, kl = zip(*terms, strict=True)
        mean_ce, mean_kl = torch.stack(ce).mean(), torch.stack(kl).mean()
        js = jensen_shannon(clean)
        loss = mean_ce + self.params.kl_weight * mean_kl + self.params.js_weight * js
        return StepOutput(loss, detached(ce=mean_ce, kl=mean_kl, js=js))

    @contextmanager
    def _view_norms(self) -> Iterator[None]:
        """Within the context, the model's BatchNorms hold the views' parameters and statistics."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        if not self.norms:
            return
        for layer, own in zip(self._model_norms(), self.norms, strict=True):
            for name in NORM_TENSORS:
                ours, theirs = getattr(own, name), getattr(layer, name)
                setattr(own, name, theirs)
                setattr(layer, name, ours)

    def _model_norms(self) -> list[_BatchNorm]:
        return [] if self.context.student is None else batchnorms(self.context.student)


def _training(dataset: str) -> Overrides:
    high: Overrides = {"training": {"attack": {"step_rule": "five-halves"}}}
    base = merge(acat_training(dataset), high)
    if dataset in SMALL:
        return base
    released = {"params": {"js_weight": JS_WEIGHTS[dataset]}, "training": {"epochs": 200}}
    return merge(base, released)


METHOD = Method(
    card=MethodCard(
        title="DAJAT",
        family="adversarial",
        summary="Applies ACAT to each image and to two AutoAugment views of it, which have "
        "separate BatchNorms, and pulls all clean predictions towards their mean.",
        formula=(
            r"\frac{1}{V + 1} \sum_{v=0}^{V} \left[ \mathrm{CE}_{\mathtt{label\_smoothing}}"
            r"(o_m^v, y) + \mathtt{kl\_weight}\, D_{\mathrm{KL}}(s_m^v \,\|\, s_n^v) + "
            r"\mathtt{js\_weight}\, D_{\mathrm{KL}}(s_m^v \,\|\, \bar s_m) \right], \quad "
            r"\bar s_m = \frac{1}{V + 1} \sum_v s_m^v, \quad V = \mathtt{views}"
        ),
        **cite("addepalli2022efficient"),
        notes=(
            "In the paper the number of attack steps grows over the epochs. The released code "
            "always takes five steps of half the radius, and so do the recipes; "
            "training.attack.step_rule=staged is what the code seems to intend.",
            "The weight perturbation increases ACAT's loss on the images, without their views and "
            "without label smoothing, as released; all views are trained at the perturbed weights.",
            "The released divergence clamps the mean prediction at 1e-7; here it is not clamped.",
            "All datasets use torchvision's AutoAugment policy for CIFAR-10, before crop and flip. "
            "The released code has the same policy in PIL.",
            "Weights are averaged over the last quarter of the epochs, from epoch 151 of 200 on as "
            "released, and evaluated with the BatchNorms of the images.",
        ),
        released_names={
            "kl_weight": "beta",
            "views": "num_auto",
            "js_weight": "JS_weight",
            "label_smoothing": "LS",
        },
    ),
    params=DajatParams,
    task=DajatTask,
    recipes=by_dataset(_training),
)
