"""Features of clean and adversarial images, their t-SNE map, and how well classes separate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from app.gallery import test_images
from harness.config import InnerAttackConfig
from harness.data.base import ImageSource
from harness.experiment.record import check_registered
from harness.models.features import features_of
from harness.models.loading import load_run_model
from harness.seeding import seeded_generator
from harness.store.rundir import RunDirectory
from harness.training.inner_attack import pgd
from harness.training.modes import attack_mode, frozen_parameters
from harness.training.schedules import InnerSchedule

PGD_STEPS = 10
BATCH = 128
NEIGHBOURS = 5
PERPLEXITY = 30.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Separation:
    """How well classes separate, in the feature space itself, not in the map.

    Attributes:
        silhouette: mean silhouette of the points with classes as clusters, in [-1, 1].
        neighbours: share of points whose ``NEIGHBOURS`` nearest neighbours vote for their class.
        spread: mean distance within classes over that between classes; small is compact.
    """

    silhouette: float
    neighbours: float
    spread: float


@dataclass(frozen=True)
class Embedding:
    """One run's map.

    Attributes:
        points: ``x``, ``y``, ``label`` (class number) and ``kind`` (clean, adversarial).
        accuracy: share of these images classified correctly, clean and adversarial.
    """

    points: pd.DataFrame
    clean: Separation
    adversarial: Separation
    perplexity: float
    accuracy: tuple[float, float]


def random_classes(total: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` of ``total`` classes, or all, in order; the same for the same seed."""
    drawn = np.random.default_rng(seed).permutation(total)[:count]
    return tuple(sorted(int(label) for label in drawn))


@st.cache_data(show_spinner=False, max_entries=32)
def embedded(
    results: str,
    run_id: str,
    modified_ns: int,
    *,
    eps: float,
    classes: int,
    per_class: int,
    seed: int,
    root: str | None,
) -> Embedding:
    """The map of ``per_class`` images of each of some random classes, by one run's model.

    ``modified_ns`` is when the model file was written: a newer one makes a new cache entry.
    ``eps`` is the Linf radius of the attack; ``root`` the data folder, None for the default one.

    Raises:
        UserError: the model or the images are missing, or the model does not return features.
    """
    run = RunDirectory(Path(results), run_id)
    check_registered(run)
    model = load_run_model(run)
    test = test_images(run.record["dataset"], root)
    rows = _drawn(test, random_classes(test.info.num_classes, classes, seed), per_class, seed)
    x, y = test.images_float(rows), test.labels[rows]
    x_adv = adversarial(model, x, y, eps=eps, seed=seed)
    clean, clean_accuracy = _features(model, x, y)
    attacked, adversarial_accuracy = _features(model, x_adv, y)
    perplexity = min(PERPLEXITY, (2 * len(y) - 1) / 3)
    places = _map(np.concatenate([clean, attacked]), perplexity, seed)
    labels = y.numpy()
    points = pd.DataFrame(places, columns=["x", "y"]).assign(
        label=np.tile(labels, 2).astype(str), kind=np.repeat(["clean", "adversarial"], len(labels))
    )
    return Embedding(
        points,
        separation(clean, labels),
        separation(attacked, labels),
        perplexity,
        (clean_accuracy, adversarial_accuracy),
    )


def separation(features: Floats, labels: NDArray[np.int64]) -> Separation:
    """How well the classes of features [N, D] separate.

    There must be at least two classes with at least two points each.
    """
    from sklearn.metrics import pairwise_distances, silhouette_score

    distances = pairwise_distances(features)
    same = labels[:, None] == labels[None, :]
    off_diagonal = ~np.eye(len(labels), dtype=bool)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.array([np.bincount(row).argmax() for row in labels[nearest]])
    np.fill_diagonal(distances, 0.0)
    between = distances[~same].mean()
    return Separation(
        float(silhouette_score(distances, labels, metric="precomputed")),
        float((votes == labels).mean()),
        float(distances[same & off_diagonal].mean() / between) if between else float("nan"),
    )


def adversarial(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, seed: int) -> Tensor:
    """Images [B, K, H, W] after ten steps of Linf PGD on the cross-entropy from a random start."""
    schedule = InnerSchedule(eps, 2.5 * eps / PGD_STEPS, PGD_STEPS)
    generator = seeded_generator(torch.device("cpu"), "embedding", seed)
    parts = []
    with attack_mode(model, "eval"), frozen_parameters(model):
        for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):

            def objective(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return cross_entropy(logits, labels, reduction="sum")

            start = InnerAttackConfig(start="uniform")
            parts.append(pgd(model, objective, images, schedule, start, generator))
    return torch.cat(parts)


def _features(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Floats, float]:
    """The features [B, D] before the classifier, and the share classified correctly."""
    with torch.no_grad():
        parts = [features_of(model, images) for images in x.split(BATCH)]
    right = torch.cat([part.logits.argmax(1) for part in parts]) == y
    return torch.cat([part.pooled for part in parts]).numpy(), float(right.float().mean())


def _drawn(test: ImageSource, classes: tuple[int, ...], per_class: int, seed: int) -> Tensor:
    """Positions of ``per_class`` random images of each class, or all of them if there are fewer."""
    generator = np.random.default_rng((seed, 1))
    labels = test.labels.numpy()
    rows = [generator.permutation(np.flatnonzero(labels == label))[:per_class] for label in classes]
    return torch.from_numpy(np.concatenate(rows))


def _map(features: Floats, perplexity: float, seed: int) -> Floats:
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=perplexity, random_state=seed, init="pca", learning_rate="auto")
    places: Floats = tsne.fit_transform(features)
    return places
