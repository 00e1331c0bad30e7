"""Losses as pure functions and modules on tensors; they need torch and nothing of the engine."""

from methods.losses.attention import attention_loss
from methods.losses.class_means import ClassMeans
from methods.losses.contrastive import ContrastiveDistillation
from methods.losses.cross_entropy import label_cross_entropy, smoothed_cross_entropy
from methods.losses.divergence import (
    DecoupledParts,
    dkl_loss,
    gkl_loss,
    ikl_loss,
    jensen_shannon,
    kl_divergence,
    soft_cross_entropy,
    weighted_mse,
)
from methods.losses.hints import HintRegressor, hint_loss
from methods.losses.logits import TargetParts, dkd_loss, kd_loss, sample_weights
from methods.losses.overhaul import OverhaulDistillation
from methods.losses.relational import RelationalParts, rkd_loss
from methods.losses.review import ReviewDistillation

__all__ = [
    "ClassMeans",
    "ContrastiveDistillation",
    "DecoupledParts",
    "HintRegressor",
    "OverhaulDistillation",
    "RelationalParts",
    "ReviewDistillation",
    "TargetParts",
    "attention_loss",
    "dkd_loss",
    "dkl_loss",
    "gkl_loss",
    "hint_loss",
    "ikl_loss",
    "jensen_shannon",
    "kd_loss",
    "kl_divergence",
    "label_cross_entropy",
    "rkd_loss",
    "sample_weights",
    "smoothed_cross_entropy",
    "soft_cross_entropy",
    "weighted_mse",
]
