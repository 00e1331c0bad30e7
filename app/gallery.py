"""Pictures of clean and adversarial test images, from a run's saved images and local data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from harness.data import dataset_info, load_dataset
from harness.data.base import ImageSource, Preparation
from harness.data.files import without_downloads
from harness.errors import UserError
from harness.evaluation.attack.chunk import adversarial_path
from harness.store.rundir import RunDirectory

SIDE = 96
GAP = 4

Image = NDArray[np.float32]
Picture = NDArray[np.uint8]


class ImagesNotKept(UserError):
    """The adversarial images of an evaluation were not saved."""


def class_names(dataset: str) -> tuple[str, ...]:
    """A dataset's class names; empty if it is unknown or only its files contain them."""
    try:
        return dataset_info(dataset).class_names
    except UserError:
        return ()


def adversarial_images(
    results: str, run_id: str, evaluation_id: str, rows: tuple[int, ...], root: str | None
) -> list[Picture]:
    """Clean, adversarial and difference side by side, one picture for each row of the test set.

    Raises:
        UserError: the adversarial images were not saved, or the clean ones are not on this machine.
    """
    saved = _saved(results, run_id, evaluation_id, rows)
    record = RunDirectory(Path(results), run_id).record
    clean = _clean_images(record["dataset"], rows, root, _preparation(record))
    return [triptych(*pair) for pair in zip(clean, saved, strict=True)]


def disagreement_images(
    results: str,
    evaluations: tuple[tuple[str, str], tuple[str, str]],
    rows: tuple[int, ...],
    root: str | None,
    *,
    clean_only: bool,
) -> tuple[list[Picture], bool]:
    """Clean images, one picture per row of the test set, with the adversarial ones if saved.

    Args:
        results: the results folder.
        evaluations: run id and evaluation id of both models.
        rows: rows of the test set.
        root: the data folder, None for the default one.
        clean_only: leave out the adversarial images.

    Returns:
        The pictures, and whether both models' adversarial images are in them.

    Raises:
        UserError: the clean images are not on this machine, or are not the same for both models.
    """
    record, other = (RunDirectory(Path(results), run_id).record for run_id, _ in evaluations)
    preparation = _preparation(record)
    if _preparation(other) != preparation:
        raise UserError(
            "the images of the two models were resized or cropped differently, so none is shown: "
            "see the samples on the page of each run"
        )
    shown = [_clean_images(record["dataset"], rows, root, preparation)]
    if not clean_only:
        # If they were not saved, or are on another machine, show the clean images only.
        with suppress(UserError):
            shown += [_saved(results, *names, rows) for names in evaluations]
    return [_beside(images) for images in zip(*shown, strict=True)], len(shown) > 1


@st.cache_data(show_spinner=False, max_entries=32)
def _clean_images(
    dataset: str, rows: tuple[int, ...], root: str | None, preparation: Preparation | None
) -> list[Image]:
    """The images [K, H, W] in [0, 1] of some rows of a test set; None is its usual preparation."""
    test = test_images(dataset, root)
    if preparation is not None:
        test = test.prepared(preparation)
    positions = {int(row): place for place, row in enumerate(test.rows)}
    places = [positions[row] for row in rows]
    return [test.images_float(slice(place, place + 1))[0].numpy() for place in places]


def _preparation(record: Mapping[str, Any]) -> Preparation | None:
    """How a run's test images were prepared, if its model needs another way than the usual one."""
    recorded = (record.get("source") or {}).get("preparation")
    return Preparation(**recorded) if recorded else None


def _saved(results: str, run_id: str, evaluation_id: str, rows: tuple[int, ...]) -> list[Image]:
    """The adversarial images [K, H, W] in [0, 1] of some rows of the test set.

    Raises:
        ImagesNotKept: they were not saved.
    """
    evaluation = RunDirectory(Path(results), run_id).evaluation(evaluation_id)
    paths = (evaluation.record_path, evaluation.verdicts_path, evaluation.chunks_path)
    stamp = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
    return _read_saved(results, run_id, evaluation_id, rows, stamp)


@st.cache_data(show_spinner=False, max_entries=64)
def _read_saved(
    results: str, run_id: str, evaluation_id: str, rows: tuple[int, ...], stamp: tuple[int, ...]
) -> list[Image]:
    """The images; ``stamp``, modification times of files, makes a new cache entry for new ones."""
    evaluation = RunDirectory(Path(results), run_id).evaluation(evaluation_id)
    size = (evaluation.record.get("protocol") or {}).get("chunk_size") or 1
    verdicts = evaluation.verdicts()["index"].to_pylist()
    places = {row: place for place, row in enumerate(verdicts)}
    found = []
    for row in rows:
        path = adversarial_path(evaluation.chunk_path(places[row] // size))
        if not path.exists():
            raise ImagesNotKept(
                "the adversarial images of this evaluation were not saved: evaluate again with "
                "--save-adversarial"
            )
        image = np.load(path, mmap_mode="r", allow_pickle=False)[places[row] % size]
        scale = 255 if image.dtype == np.uint8 else 1
        found.append((np.asarray(image, dtype=np.float32) / scale).astype(np.float32))
    return found


def test_images(dataset: str, root: str | None) -> ImageSource:
    """A dataset's test images, if they are on this machine; the app downloads nothing.

    Raises:
        UserError: they are not on this machine.
    """
    # An imported run may name a folder on another machine.
    own = root if root and Path(root).is_dir() else None
    with without_downloads():
        return load_dataset(dataset, own, splits=("test",)).test


def triptych(clean: Image, adversarial: Image) -> Picture:
    """Two images [K, H, W] in [0, 1] and their difference, scaled to its maximum: [H', 3 W', 3]."""
    change = adversarial - clean
    largest = float(np.abs(change).max())
    shown = 0.5 + (change / (2 * largest) if largest else change)
    return _beside([clean, adversarial, shown])


def _beside(images: Sequence[Image]) -> Picture:
    """Enlarged images [K, H, W] in a row, with gaps."""
    first, *others = (_enlarged(image) for image in images)
    gap = np.full((first.shape[0], GAP, 3), 128, np.uint8)
    return np.concatenate([first, *[part for other in others for part in (gap, other)]], axis=1)


def _enlarged(image: Image) -> Picture:
    colour = np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image
    pixels = (colour.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    factor = max(1, SIDE // pixels.shape[0])
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
