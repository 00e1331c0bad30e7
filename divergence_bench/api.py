"""The Python API: a few typed functions over the engine that lies under the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from divergence_bench import inputs
from harness.config import STANDARD_ATTACKS, EvalProtocol
from harness.data import DATASETS, dataset_info
from harness.data.base import DatasetSource
from harness.errors import UserError
from harness.evaluation.analysis import paired, stored
from harness.evaluation.attack.judge import clip_to_ball
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.attack.protocol import make_attack
from harness.evaluation.guards import own_random_state, untouched
from harness.evaluation.speed.batching import Batching
from harness.experiment import resolve, runner
from harness.models import ARCHITECTURES, Architecture
from harness.models.loading import load_external, load_model_file
from harness.models.normalize import Statistics, normalized
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory, find_run
from harness.training.build import choose_device

if TYPE_CHECKING:
    import pandas as pd

    from harness.evaluation.analysis.paired import Comparison
    from harness.method import Method

Model = nn.Module | Callable[[Tensor], Tensor] | str | Path
PRESETS = {"standard": STANDARD_ATTACKS, "fast": ("apgd-ce", "apgd-t"), "none": ()}
# Short names of settings, as the command line has them.
SETTINGS = {
    "arch": "model.arch",
    "teacher": "teacher.source",
    "teacher_arch": "teacher.arch",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "training.optimizer.lr",
    "train_limit": "data.train_limit",
    "root": "data.root",
    "generated": "data.generated",
    "attacks": "evaluation.attacks",
    "norm": "evaluation.norm",
    "eps": "evaluation.eps",
    "n": "evaluation.limit",
    "workers": "evaluation.workers",
}
RESULTS = """
WITH wide AS (
    PIVOT (SELECT run_id, evaluation_id, name, value FROM metrics
           WHERE evaluation_id IS NOT NULL AND name IN ('clean', 'robust', 'aa'))
    ON name IN ('clean', 'robust', 'aa') USING first(value)
), interval AS (
    SELECT run_id, evaluation_id, low, high FROM metrics WHERE name = 'robust'
)
SELECT l.run_id, l.title AS name, l.method, l.dataset, l.arch, l.seed, l.norm, l.eps, l.attacks,
       l.n, w.clean, w.robust, i.low AS robust_low, i.high AS robust_high, w.aa, l.scale,
       l.partial, l.evaluation_id, l.finished_at
FROM like_runs l
JOIN wide w USING (run_id, evaluation_id) JOIN interval i USING (run_id, evaluation_id)
ORDER BY l.finished_at, l.run_id
"""


@dataclass(frozen=True)
class Accuracy:
    """An accuracy in [0, 1] with its 95% Wilson interval and the number of images."""

    value: float
    low: float
    high: float
    n: int

    def __float__(self) -> float:
        """The value."""
        return self.value

    def __str__(self) -> str:
        """Such as ``0.5713 [0.562, 0.581] (n=10,000)``."""
        return f"{self.value:.4f} [{self.low:.3f}, {self.high:.3f}] (n={self.n:,})"


@dataclass(frozen=True)
class Result:
    """A stored evaluation of a stored run.

    Attributes:
        run_id: the run, as ``list runs`` shows it.
        evaluation_id: the evaluation.
        path: the folder of the run.
        metrics: accuracy on clean images (``clean``), after each stage, and after all (``robust``).
        protocol: all that the numbers must be quoted with.
        flags: reasons to doubt the numbers, one sentence each.
    """

    run_id: str
    evaluation_id: str
    path: Path
    metrics: Mapping[str, Accuracy]
    protocol: Mapping[str, Any]
    flags: tuple[str, ...]

    @property
    def clean(self) -> Accuracy:
        """Accuracy on the images as they are."""
        return self.metrics["clean"]

    @property
    def robust(self) -> Accuracy:
        """Accuracy after all attacks."""
        return self.metrics["robust"]

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row an image: label, clean_pred, broken_by, target, adv_pred, distance, margin."""
        return verdicts(self.run_id, self.evaluation_id, results=self.path.parents[1])

    def __str__(self) -> str:
        """Clean and robust accuracy in one line."""
        return f"{self.run_id}: clean {self.clean}, robust {self.robust}"


def evaluate(
    model: Model,
    data: Any,
    *,
    attacks: str | Sequence[str] = "standard",
    norm: str = "Linf",
    eps: float | str | Sequence[float | str] | None = None,
    n: int | None = None,
    name: str | None = None,
    results: str | Path = "results",
    device: str = "auto",
    workers: int = 1,
    normalize: str | Statistics | None = None,
    arch: str | None = None,
    weights: str | Path | None = None,
    root: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Evaluate a model by the protocol and store every verdict.

    The same call again finishes what was interrupted, or returns what is stored.

    Args:
        model: an ``nn.Module`` or a function that maps images [B, K, H, W] in [0, 1] to logits
            [B, C]; or the name of a stored run, a checkpoint file, ``robustbench:NAME``,
            ``timm:NAME``, ``torchvision:NAME`` or ``package.module:function``.
        data: the name of a dataset; or a pair of test images [N, K, S, S] (uint8, or floats in
            [0, 1]) and labels [N], as tensors or arrays; or a ``torch.utils.data.Dataset`` of
            such pairs.
        attacks: ``standard`` (AutoAttack), ``fast`` (APGD-CE, APGD-T), ``none``, or stages in
            order.
        norm: ``Linf`` or ``L2``.
        eps: radius, such as 8 / 255 or "8/255", images being in [0, 1]. Of several radii each is
            evaluated, and the result is that of the largest. Default: the dataset's customary
            Linf radius.
        n: evaluate the first ``n`` test images; such a result is marked partial.
        name: what tables call the model; default: its class.
        results: the results folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: processes that share the work; these must be able to import the model's class.
        normalize: normalise images before the model: ``dataset``, ``imagenet`` or (mean, std).
        arch: of a checkpoint file that does not name its own.
        weights: local weights of a zoo model.
        root: folder of the datasets.
        quiet: show no progress.
        **settings: further fields of the protocol, such as ``seed`` or ``chunk_size``.

    Raises:
        UserError: the model, the data or a setting cannot be used; the message says why.
    """
    folder, reporter = Path(results), Reporter(quiet=quiet)
    stages = PRESETS.get(attacks, attacks) if isinstance(attacks, str) else tuple(attacks)
    given = {"attacks": stages, "norm": norm, "eps": eps, "limit": n, "workers": workers}
    given |= settings
    run = stored_run(folder, model) if isinstance(model, str | Path) else None
    images = None if root is None else Path(root)
    if run is not None:
        if data != run.record["dataset"]:
            raise UserError(f"{run.run_id} is a run on {run.record['dataset']}: give that as data")
        own = (run.record.get("config") or {}).get("evaluation", {})
        protocol = resolve.evaluation({"eps": own.get("eps", 8 / 255)}, given, ())
        return _result(runner.evaluate_run(run, protocol, images, device, reporter))
    module = None if isinstance(model, str | Path) else inputs.as_module(model)
    loaded = inputs.test_images(data, module, images)
    if eps is None and not isinstance(data, str) and stages:
        raise UserError("no customary radius of these images is known: give eps, such as 8 / 255")
    protocol = resolve.evaluation({"eps": loaded.info.default_eps}, given, ())
    where: dict[str, Any] = {
        "results": folder,
        "reporter": reporter,
        "device": device,
        "name": name,
    }
    if module is None:
        outcome = runner.evaluate_external(
            str(model),
            loaded,
            protocol,
            arch=arch,
            weights=None if weights is None else Path(weights),
            normalize=normalize,
            **where,
        )
        return _result(outcome)
    network, statistics = normalized(module, normalize, loaded.info)
    facts = inputs.identified(network, module, loaded.info, name)
    facts["normalize"] = statistics
    identity = {key: facts[key] for key in ("sha256", "arch", "code_sha256", "answers")}
    identity |= {"dataset": loaded.info.name}
    return _result(
        runner.evaluate_model(network, loaded, protocol, facts=facts, identity=identity, **where)
    )


def train(
    method: str | Method,
    dataset: str | None = None,
    *,
    recipe: str | None = None,
    results: str | Path = "results",
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Train a model by a method, evaluate it and store both; as ``run`` of the command line.

    The same call again finishes what was interrupted, or returns what is stored.

    Args:
        method: a registered method, or a ``Method``, which is registered under its title.
        dataset: a registered dataset; default: the recipe's, else digits.
        recipe: one of the method's recipes; default: the one named like the dataset.
        results: the results folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        quiet: show no progress.
        **settings: ``arch``, ``epochs``, ``batch_size``, ``lr``, ``seed``, ``train_limit``,
            ``teacher``, ``teacher_arch``, ``root``, ``attacks``, ``norm``, ``eps``, ``n`` or
            ``workers``; or sections of the configuration, such as ``params={"temperature": 2}``
            or ``training={"optimizer": {"lr": 0.1}}``.

    Raises:
        UserError: a name or a setting is not known, or training diverged; the message says why.
    """
    if not isinstance(method, str):
        title = method.card.title.lower().replace(" ", "-")
        if title not in METHODS:
            METHODS.register(title, method)
        elif METHODS.get(title) is not method:
            raise UserError(f"another method is registered as {title!r}: choose another title")
        method = title
    options = {SETTINGS.get(name, name): value for name, value in settings.items()}
    attacks = options.get("evaluation.attacks")
    if isinstance(attacks, str):
        options["evaluation.attacks"] = PRESETS.get(attacks, attacks)
    options |= {"results": Path(results), "device": device}
    config = resolve.resolve(method, recipe=recipe, dataset=dataset, options=options)
    return _result(runner.run(config, Reporter(quiet=quiet), passed={"python": settings}))


def load_model(
    model: str | Path,
    *,
    results: str | Path = "results",
    dataset: str | None = None,
    arch: str | None = None,
    weights: str | Path | None = None,
    norm: str = "Linf",
) -> nn.Module:
    """A trained model of images in [0, 1], in eval mode on the CPU.

    Args:
        model: a stored run, a checkpoint file, ``robustbench:NAME``, ``timm:NAME``,
            ``torchvision:NAME`` or ``package.module:function``.
        results: the results folder, for a run.
        dataset: the dataset that the model classifies; needed unless ``model`` is a run.
        arch: of a checkpoint file that does not name its own.
        weights: local weights of a zoo model.
        norm: RobustBench's threat model.

    Raises:
        UserError: there is no such model, or it does not fit the dataset.
    """
    run = stored_run(Path(results), model)
    if run is not None:
        return load_model_file(run.model_path)
    if dataset is None:
        raise UserError(f"{model} is no stored run: give the dataset that it classifies")
    path = None if weights is None else Path(weights)
    info = dataset_info(dataset)
    return load_external(str(model), dataset_info=info, arch=arch, weights=path, threat=norm)[0]


def attack(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    name: str = "apgd-ce",
    *,
    eps: float,
    norm: str = "Linf",
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    **budget: int,
) -> Tensor:
    """Adversarial images by one of AutoAttack's stages.

    Args:
        model: maps images [B, K, H, W] in [0, 1] to logits [B, C].
        images: clean images [B, K, H, W] in [0, 1].
        labels: true classes [B].
        name: ``apgd-ce``, ``apgd-t``, ``fab-t`` or ``square``.
        eps: radius, images being in [0, 1].
        norm: ``Linf`` or ``L2``.
        seed: of the attack's randomness; the global generators stay as they are.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: images per forward pass; default: all.
        **budget: ``n_iter``, ``n_restarts``, ``n_queries`` or ``n_target_classes``.

    Returns:
        Images like ``images``, in [0, 1] and within ``eps``; an image that the attack did not
        break may be returned as it was.

    Raises:
        UserError: there is no such attack, or a value is refused.
    """
    where, module = choose_device(device), inputs.as_module(model)
    settings = {"attacks": (name,), "norm": norm, "eps": eps, "budget": budget}
    protocol: EvalProtocol = resolve.validated(EvalProtocol, settings)
    x, y = images.to(where), labels.to(where)
    with untouched(module.to(where)), own_random_state(where):
        with torch.no_grad():
            num_classes = module(x[:1]).shape[1]
        network = AttackModel(module, num_classes, Batching(batch_size))
        stage = make_attack(protocol.attacks[0], network, protocol, seed, where)
        found = stage.perturb(x.clone(), y.clone()).detach()
    return clip_to_ball(found, x, protocol.norm, protocol.eps)[0].to(images.device)


def compare(a: Result | str, b: Result | str, *, results: str | Path = "results") -> Comparison:
    """Compare two runs image by image, after clean and after each stage.

    Args:
        a: a result, a run, or ``RUN@EVALUATION``.
        b: likewise.
        results: the results folder of runs given by name.

    Returns:
        A comparison with ``metrics``: name to difference a - b, interval and McNemar p-value.

    Raises:
        UserError: a run is unknown or not evaluated, or they share no protocol.
    """
    folder = next((each.path.parents[1] for each in (a, b) if isinstance(each, Result)), results)
    names = [f"{x.run_id}@{x.evaluation_id}" if isinstance(x, Result) else x for x in (a, b)]
    found = [stored.finished(Path(folder), name, None, None) for name in names]
    return paired.compare(*stored.choose(found))


def results(results: str | Path = "results") -> pd.DataFrame:
    """One row for each finished evaluation of each run; accuracies are fractions.

    Raises:
        UserError: there is no database in the folder.
    """
    return Database(Path(results)).query(RESULTS)


def verdicts(
    run: str, evaluation: str | None = None, *, results: str | Path = "results"
) -> pd.DataFrame:
    """One row an image of a run's evaluation; default: its newest finished one.

    Raises:
        UserError: there is no such run or evaluation, or its verdicts are damaged.
    """
    name = run if evaluation is None else f"{run}@{evaluation}"
    _, directory = stored.finished(Path(results), name, None, None)[0]
    frame: pd.DataFrame = directory.verdicts().to_pandas()
    return frame


def methods() -> list[str]:
    """Names of the registered methods."""
    return METHODS.names()


def datasets() -> list[str]:
    """Names of the registered datasets."""
    return DATASETS.names()


def models() -> list[str]:
    """Names of the registered architectures."""
    return ARCHITECTURES.names()


def register_dataset(name: str, source: DatasetSource) -> None:
    """Register a dataset for this process; the entry points ``harness.datasets`` are for packages.

    Args:
        name: for ``--dataset``, ``train`` and ``evaluate``; as ``source.info.name``.
        source: its description, and a function that loads a split from a root folder.

    Raises:
        UserError: the name is taken or is not that of the description.
    """
    if source.info.name != name:
        raise UserError(f"the description names the dataset {source.info.name!r}, not {name!r}")
    DATASETS.register(name, source)


def register_model(name: str, architecture: Architecture) -> None:
    """Register an architecture for this process; entry points ``harness.models`` are for packages.

    Args:
        name: for ``--arch`` and ``arch=``.
        architecture: makes a network from (num_classes, in_channels, image_size).

    Raises:
        UserError: the name is taken.
    """
    ARCHITECTURES.register(name, architecture)


def stored_run(results: Path, source: str | Path) -> RunDirectory | None:
    """The stored run that ``source`` names, unless it is a file or a prefixed or dotted name.

    Raises:
        UserError: it is neither, and no run has the name.
    """
    if ":" in str(source) or Path(source).is_file():
        return None
    return find_run(results, str(source))


def _result(outcome: runner.Outcome) -> Result:
    evaluation = outcome.evaluation
    directory = RunDirectory(outcome.directory.parents[1], outcome.run_id)
    record = directory.evaluation(evaluation.evaluation_id).record
    return Result(
        outcome.run_id,
        evaluation.evaluation_id,
        outcome.directory,
        {
            name: Accuracy(m["value"], m["low"], m["high"], int(m["n"]))
            for name, m in evaluation.metrics.items()
        },
        record["protocol"],
        tuple(f"{flag['name']}: {flag['detail']}" for flag in record.get("flags") or ()),
    )
