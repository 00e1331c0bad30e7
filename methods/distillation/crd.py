"""CRD: contrastive representation distillation (Tian et al., 2020)."""

from __future__ import annotations

from pydantic import Field

from harness.config import merge
from harness.errors import UserError
from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.contrastive import Contrast, ContrastiveDistillation
from methods.losses.cross_entropy import label_cross_entropy


class CrdParams(DistillationParams):
    """The weight, negatives and memory of the contrastive loss.

    Each image is contrasted with ``negatives`` images of other classes, drawn from the training set
    with or without ``replacement``. The memory keeps an embedding of length ``embedding_size`` for
    each image, updated with ``momentum`` on the old one. ``temperature`` is that of the scores.
    """

    contrast_weight: float = Field(0.8, ge=0)
    negatives: int = Field(16384, ge=1)
    replacement: bool = False
    embedding_size: int = Field(128, ge=1)
    temperature: float = Field(0.07, gt=0)
    momentum: float = Field(0.5, ge=0, lt=1)


class CrdTask(FeatureTask):
    """Embeddings of both models are trained alongside; memories are part of every checkpoint.

    Negatives are drawn with the global generator, which the engine seeds in each epoch.
    """

    remembers_images = True

    def __init__(self, params: CrdParams, context: TaskContext) -> None:
        """Build embeddings for the two pooled features, and a memory of the training set."""
        super().__init__(params, context)
        if context.train_labels is None:
            raise UserError("crd draws negatives by class and needs the training labels")
        self.contrast = ContrastiveDistillation(
            self.shapes(self.student).pooled.shape[1],
            self.shapes(self.teacher).pooled.shape[1],
            context.train_labels.to(context.device),
            negatives=params.negatives,
            replacement=params.replacement,
            features=params.embedding_size,
            temperature=params.temperature,
            momentum=params.momentum,
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + contrast_weight contrastive loss; ``observe`` updates the memories."""
        student, teacher = self.features(model, batch)
        contrast = self.contrast(student.pooled, teacher.pooled, batch.index, batch.y)
        ce = label_cross_entropy(student.logits, batch.targets)
        loss = self.params.label_weight * ce + self.params.contrast_weight * contrast.loss
        extras = detached(
            student=contrast.student, teacher=contrast.teacher, normalizers=contrast.normalizers
        )
        return StepOutput(loss, detached(ce=ce, contrast=contrast.loss), extras)

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """Move the memories towards the batch's embeddings."""
        contrast = Contrast(loss=output.loss.detach(), **output.extras)
        self.contrast.update(batch.index, contrast)


def _settings(pair: _pairs.Pair) -> Overrides:
    if pair.dataset == "imagenet":
        return merge(_pairs.imagenet_batch(256), {"params": {"replacement": True}})
    return {}


METHOD = Method(
    card=MethodCard(
        title="CRD",
        family="distillation",
        summary="Trains the student's embedding of an image to identify the teacher's embedding of "
        "the same image among thousands, and vice versa.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{contrast\_weight}\, (L_s + "
            r"L_t), \quad L = -\mathrm{mean} \left[\log \frac{h^+}{h^+ + K/N} + \sum_K \log "
            r"\frac{K/N}{h^- + K/N}\right], \quad h = \frac{1}{Z} \exp \frac{v \cdot "
            r"m}{\mathtt{temperature}}"
        ),
        **cite("tian2020contrastive"),
        tables=(3, 5, 7),
        notes=(
            "Negatives are 16,384 images of other classes, drawn without replacement on CIFAR and "
            "with replacement on ImageNet, as released. Small-scale recipes use 64.",
            "The first batch sets the normaliser Z.",
            "On ImageNet the batch size is 256 and the learning rate 0.1.",
            "All pairs have the same parameters. The rows of Tables 5 and 7 are the last epoch's.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "contrast_weight": "FEAT_WEIGHT",
            "negatives": "K",
            "embedding_size": "DIM",
            "temperature": "TEMPERATURE",
            "momentum": "MOMENTUM",
        },
    ),
    params=CrdParams,
    task=CrdTask,
    recipes=_pairs.recipes(_settings, small_changes={"params": {"negatives": 64}}),
    recipe_notes=_pairs.last_epoch_note(),
)
