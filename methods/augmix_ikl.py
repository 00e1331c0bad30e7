"""AugMix with IKL: the improved KL divergence between an image and its mixtures."""

from __future__ import annotations

import torch
from pydantic import Field

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods._papers import cite
from methods._recipes import by_dataset
from methods._steps import detached
from methods.augmix import AugmixTask, MixtureParams, training
from methods.losses.class_means import ClassMeans
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import ikl_loss


class AugmixIklParams(MixtureParams):
    """AugMix's mixtures, the weights of IKL, and the temperature of its class means."""

    wmse_weight: float = Field(4.0, ge=0)
    ce_weight: float = Field(4.0, ge=0)
    temperature: float = Field(4.0, gt=0)


class AugmixIklTask(AugmixTask):
    """IKL from the image to each of its mixtures, with the class means of the previous epoch."""

    def __init__(self, params: AugmixIklParams, context: TaskContext) -> None:
        """Start from uniform class means."""
        super().__init__(params, context)
        self.class_means = ClassMeans(
            context.num_classes, temperature=params.temperature, device=context.device
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o, y) + the mean over mixtures of wmse_weight wMSE + ce_weight soft CE."""
        clean_BC, *views = self.predictions(model, batch)
        ce = label_cross_entropy(clean_BC, batch.targets)
        weights_BC = self.class_means.of(batch.y)
        parts = [ikl_loss(clean_BC, view_BC, weights_BC) for view_BC in views]
        wmse, soft_ce = (torch.stack(each).mean() for each in zip(*parts, strict=True))
        loss = ce + self.params.wmse_weight * wmse + self.params.ce_weight * soft_ce
        extras = detached(clean_logits=clean_BC)
        return StepOutput(loss, detached(ce=ce, wmse=wmse, soft_ce=soft_ce), extras)

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """Add the predictions on the unmixed images to the class means."""
        self.class_means.update(output.extras["clean_logits"], batch.y)

    def end_epoch(self, epoch: int) -> None:
        """Weight the next epoch by this epoch's means."""
        self.class_means.end_epoch()


METHOD = Method(
    card=MethodCard(
        title="AugMix-IKL",
        family="natural",
        summary="Replaces AugMix's consistency loss with the improved KL divergence from an image "
        "to its mixtures, weighted by the mean prediction of each class.",
        formula=(
            r"\mathrm{CE}(o, y) + \frac{1}{2} \sum_{v=1}^{2} \left[\frac{\mathtt{wmse\_weight}}{4} "
            r"\sum_{j,k} \bar s_y^j \bar s_y^k (\Delta o_{jk} - \Delta v_{jk})^2 - "
            r"\mathtt{ce\_weight} \sum_j \mathcal{S}(s^j) \log s_v^j\right]"
        ),
        **cite("cui2024decoupled"),
        notes=(
            "This method is not in the paper, whose conclusion names other tasks for IKL. Mixtures "
            "and training are AugMix's; weights and temperature are this project's choice and are "
            "not tuned.",
            "The command corrupt measures robustness to common corruptions.",
        ),
    ),
    params=AugmixIklParams,
    task=AugmixIklTask,
    recipes=by_dataset(training),
)
