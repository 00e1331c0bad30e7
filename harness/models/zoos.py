"""Networks from public model zoos: RobustBench, timm and torchvision."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from harness.compat import import_robustbench, import_timm, import_torchvision
from harness.data.base import Preparation
from harness.errors import UserError, first_line
from harness.models.checkpoint import read_checkpoint
from harness.models.external.unwrap import load_weights
from harness.models.normalize import Normalized, Statistics
from harness.registry import unknown_name
from harness.store.files import file_sha256

if TYPE_CHECKING:
    from harness.data.base import DatasetInfo

T = TypeVar("T")
# torchvision transforms that define a preparation, and those that only convert values.
PREPARING = ("Resize", "CenterCrop")
CONVERTING = {"ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "Normalize"}


@dataclass(frozen=True)
class Loaded:
    """A network from an external source.

    Attributes:
        network: takes images normalised by ``statistics``.
        arch: its architecture.
        name: its name in the source.
        statistics: mean and standard deviation per channel, None for images in [0, 1].
        sha256: hash of its weights file, None if there is no single file.
        notes: notes for the user, one sentence each.
        preparation: preparation of its images, if they are ImageNet's and the source specifies it.
    """

    network: nn.Module
    arch: str
    name: str
    statistics: Statistics | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    preparation: Preparation | None = None

    def model(self) -> nn.Module:
        """Return the network, preceded by the normalisation of its images if it has one."""
        return Normalized(self.network, *self.statistics) if self.statistics else self.network


def from_timm(
    name: str, info: DatasetInfo, threat: str, weights: Path | None, key: str | None = None
) -> Loaded:
    """Load a timm network with its pretrained weights or those of a file."""
    timm = installed("timm", import_timm)
    if not timm.is_model(name):
        raise UserError(unknown_name("timm model", name, timm.list_models()))
    if weights:
        network = timm.create_model(name, num_classes=info.num_classes, in_chans=info.channels)
    else:
        network = fetched(f"timm:{name}", lambda: timm.create_model(name, pretrained=True))
    config = network.pretrained_cfg
    found = with_weights(network, name, (config["mean"], config["std"]), weights, info, key)
    if not is_imagenet(info):
        return found
    data = importlib.import_module("timm.data")
    steps = data.create_transform(**data.resolve_model_data_config(network))
    return replace(found, preparation=preparation_of(steps, f"timm:{name}"))


def from_torchvision(
    name: str, info: DatasetInfo, threat: str, weights: Path | None, key: str | None = None
) -> Loaded:
    """Load a torchvision classifier with its IMAGENET1K_V1 weights or those of a file."""
    models = installed("torchvision", import_torchvision).models
    if name not in models.list_models(module=models):
        raise UserError(unknown_name("torchvision model", name, models.list_models(module=models)))
    published = models.get_model_weights(name)
    chosen = published.__members__.get("IMAGENET1K_V1")
    if weights:
        network = models.get_model(name, weights=None, num_classes=info.num_classes)
    elif chosen is None:
        raise UserError(
            f"torchvision publishes no IMAGENET1K_V1 weights of {name}: give a file with --weights"
        )
    else:
        network = fetched(f"torchvision:{name}", lambda: models.get_model(name, weights=chosen))
    preset = (chosen or next(iter(published))).transforms()
    found = with_weights(network, name, (preset.mean, preset.std), weights, info, key)
    if not is_imagenet(info):
        return found
    side, size = preset.resize_size[0], preset.crop_size[0]
    return replace(found, preparation=Preparation(size, side, preset.interpolation.value))


def with_weights(
    network: nn.Module,
    name: str,
    statistics: Statistics,
    weights: Path | None,
    info: DatasetInfo,
    key: str | None = None,
) -> Loaded:
    """Return the network with the weights of a file, if one is given.

    Statistics of the pretrained weights do not apply to a network with another number of channels:
    its images are normalised by the statistics of its dataset.
    """
    if weights is None:
        return Loaded(network, name, name, statistics)
    taken = load_weights(network, read_checkpoint(weights), str(weights), key)
    notes = taken.notes
    if taken.statistics is None and len(statistics[0]) != info.channels:
        statistics = (info.mean, info.std)
        notes += (f"images are normalised by the mean and std of {info.name}",)
    return Loaded(network, name, name, taken.statistics or statistics, file_sha256(weights), notes)


def from_robustbench(
    name: str, info: DatasetInfo, threat: str, weights: Path | None, key: str | None = None
) -> Loaded:
    """Load an entry of RobustBench's zoo, which includes any normalisation it needs.

    ``THREAT/NAME`` is an entry for a threat model other than the evaluation's. Without ``weights``,
    its file is read from ``robustbench`` in ``torch.hub.get_dir()``, or downloaded to it.
    """
    if key:
        raise UserError(
            f"weights key {key} was given, but RobustBench itself chooses the weights of "
            f"robustbench:{name} in a file: leave it out"
        )
    installed("robustbench", import_robustbench)
    given, slash, name = name.rpartition("/")
    threat, dataset = given if slash else threat, info.part_of or info.name
    entry = robustbench_entry(name, dataset, threat)
    file_id = entry["gdrive_id"]
    cache = Path(torch.hub.get_dir()) / "robustbench"
    if isinstance(file_id, str) and file_id:
        path = weights or cache / dataset / threat / f"{name}.pt"
        if not weights and not path.exists():
            download(file_id, path)
        network = robustbench_network(name, dataset, threat, path)
        found = Loaded(network, type(network).__name__, name, sha256=file_sha256(path))
        return replace(found, preparation=robustbench_preparation(name, info, threat))
    if weights:
        raise UserError(
            f"robustbench:{name} is not loaded from one file: leave out the weights {weights}"
        )
    network = fetched(f"robustbench:{name}", lambda: load(name, dataset, threat, cache))
    preparation = robustbench_preparation(name, info, threat)
    return Loaded(network, type(network).__name__, name, preparation=preparation)


def is_imagenet(info: DatasetInfo) -> bool:
    """Whether the images are ImageNet's, for which public zoos define a preparation."""
    return (info.part_of or info.name) == "imagenet"


def robustbench_preparation(name: str, info: DatasetInfo, threat: str) -> Preparation | None:
    """Return RobustBench's preparation of ImageNet images for an entry, None for other datasets."""
    if not is_imagenet(info):
        return None
    data = importlib.import_module("robustbench.data")
    enums = importlib.import_module("robustbench.model_zoo.enums")
    kind, dataset = enums.ThreatModel(threat), enums.BenchmarkDataset.imagenet
    steps = data.get_preprocessing(dataset, kind, name, None)
    return preparation_of(steps, f"robustbench:{name}")


def preparation_of(transforms: Any, source: str) -> Preparation | None:
    """Return the preparation that a zoo's torchvision transforms define; None if they have none.

    Raises:
        UserError: they do more than resize and crop at the centre.
    """
    steps = {type(step).__name__: step for step in transforms.transforms}
    if unknown := steps.keys() - set(PREPARING) - CONVERTING:
        raise UserError(
            f"{source} prepares its images by {', '.join(sorted(unknown))}, which is not "
            "supported: evaluate it as package.module:function on your own images"
        )
    resize, crop = map(steps.get, PREPARING)
    if resize is None:
        return Preparation(crop.size[0], None) if crop else None
    squash = not isinstance(resize.size, int)
    side = resize.size[0] if squash else resize.size
    return Preparation(crop.size[0] if crop else side, side, resize.interpolation.value, squash)


def robustbench_entry(name: str, dataset: str, threat: str) -> dict[str, Any]:
    """Return an entry of RobustBench's table of models for a dataset and threat model."""
    tables = robustbench_tables()
    if (dataset, threat) not in tables:
        known = ", ".join(f"{key} {kind}" for key, kind in tables)
        raise UserError(f"RobustBench has no models for {dataset} {threat}: it has {known}")
    entries = tables[dataset, threat]
    if name not in entries:
        others = [kind for key, kind in tables if key == dataset and name in tables[key, kind]]
        if others:
            raise UserError(
                f"RobustBench's {name} for {dataset} is a model for {' and '.join(others)}, not "
                f"{threat}: write robustbench:{others[0]}/{name}"
            )
        kind = f"RobustBench {dataset} {threat} model"
        raise UserError(unknown_name(kind, name, list(entries)))
    return entries[name]


def robustbench_tables() -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return RobustBench's entries by (dataset, threat model) and name."""
    zoo = importlib.import_module("robustbench.model_zoo").model_dicts
    return {
        (key.value, kind.value): dict(entries)
        for key, kinds in zoo.items()
        for kind, entries in kinds.items()
    }


def robustbench_models() -> list[dict[str, str]]:
    """List every entry of RobustBench's zoo: source, dataset, threat model and weights."""
    installed("robustbench", import_robustbench)
    return [
        {
            "model": f"robustbench:{threat}/{name}",
            "dataset": dataset,
            "threat": threat,
            "weights": weights_needed(f"{dataset}/{threat}/{name}", entry["gdrive_id"]),
        }
        for (dataset, threat), entries in robustbench_tables().items()
        for name, entry in entries.items()
    ]


def weights_needed(path: str, file_ids: Any) -> str:
    """Describe where an entry's weights come from: its files, or the package that has them."""
    if isinstance(file_ids, list):
        return f"{len(file_ids)} files {path}.pt_m0.pt ..., downloaded"
    if file_ids:
        return f"--weights FILE, or {path}.pt, downloaded"
    return "published with timm or torchvision, downloaded"


def robustbench_network(name: str, dataset: str, threat: str, path: Path) -> nn.Module:
    """Load an entry with a weights file, linked into the folder layout that RobustBench expects."""
    read_checkpoint(path)  # raises a clear message if the file cannot be used
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, dataset, threat, f"{name}.pt")
        place.parent.mkdir(parents=True)
        place.symlink_to(path.resolve())
        try:
            return load(name, dataset, threat, Path(folder))
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"the weights in {path} are not those of robustbench:{name} "
                f"({first_line(error)}): choose the entry that they belong to"
            ) from error


def load(name: str, dataset: str, threat: str, folder: Path) -> nn.Module:
    """Load a model with RobustBench; its messages go to standard error."""
    utils = importlib.import_module("robustbench.utils")
    with contextlib.redirect_stdout(sys.stderr):
        network: nn.Module = utils.load_model(name, str(folder), dataset, threat)
    return network


def download(file_id: str, path: Path) -> None:
    """Download a file with RobustBench; ``path`` is written only if the file can be read."""
    utils = importlib.import_module("robustbench.utils")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with contextlib.redirect_stdout(sys.stderr):
        fetched(
            f"robustbench:{path.stem}", lambda: utils.download_gdrive_new(file_id, str(partial))
        )
    read_checkpoint(partial)
    os.replace(partial, path)


def installed(package: str, load_module: Callable[[], ModuleType]) -> ModuleType:
    """Import an optional package; ``UserError`` if it is not installed."""
    try:
        return load_module()
    except ImportError as error:
        raise UserError(
            f"{package} cannot be imported ({first_line(error)}): "
            'install it with pip install "divergence-bench[zoo]"'
        ) from error


def fetched(source: str, fetch: Callable[[], T]) -> T:
    """Return the result of a call that needs the internet; ``UserError`` if it fails."""
    try:
        return fetch()
    except Exception as error:  # each zoo raises different types
        raise UserError(
            f"the weights of {source} cannot be downloaded ({first_line(error)}): connect to the "
            "network, or give its weights as a file (--weights of evaluate, --teacher of run)"
        ) from error


ZOOS: dict[str, Callable[[str, DatasetInfo, str, Path | None, str | None], Loaded]] = {
    "robustbench": from_robustbench,
    "timm": from_timm,
    "torchvision": from_torchvision,
}
