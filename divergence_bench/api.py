"""The Python API: typed functions over the same engine as the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from divergence_bench import inputs
from divergence_bench.result import Result, result_of
from harness.config import ATTACK_SETS, EvalProtocol
from harness.config.validate import validated
from harness.data import Dataset, dataset_info
from harness.errors import UserError
from harness.evaluation.analysis.decide import Decision, until_decided
from harness.evaluation.analysis.sequential import DecisionRule
from harness.evaluation.attack.judge import clip_to_ball
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.attack.protocol import check_diameter
from harness.evaluation.attack.stages import make_attack
from harness.evaluation.guards import own_random_state, untouched
from harness.evaluation.speed.batching import Batching
from harness.experiment import external, resolve, runner
from harness.experiment.record import check_registered, images_root, own_protocol, own_settings
from harness.models.external.probe import FunctionModel, device_of
from harness.models.loading import load_external, load_run_model
from harness.models.normalize import Statistics
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import EvaluationDirectory, RunDirectory, stored_run
from harness.training.build import choose_device

if TYPE_CHECKING:
    from harness.method import Method

Model = nn.Module | Callable[[Tensor], Tensor] | str | Path
# Short names of settings, as on the command line.
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


def evaluate(
    model: Model,
    data: Any,
    *,
    attacks: str | Sequence[str] | None = None,
    norm: str | None = None,
    eps: float | str | Sequence[float | str] | None = None,
    n: int | None = None,
    precision: float | None = None,
    name: str | None = None,
    results: str | Path = "results",
    device: str = "auto",
    workers: int = 1,
    normalize: str | Statistics | None = None,
    arch: str | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    root: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Evaluate a model and store the verdict on every image.

    Repeating the call resumes an interrupted evaluation or returns the stored result.

    Args:
        model: an ``nn.Module`` or a function that maps images [B, K, H, W] in [0, 1] to logits
            [B, C]; or the name of a stored run, a checkpoint file, ``robustbench:NAME``,
            ``timm:NAME``, ``torchvision:NAME`` or ``package.module:function``.
        data: the name of a dataset, or ``folder:PATH``; or a pair of test images [N, K, S, S]
            (uint8, or floats in [0, 1]) and labels [N], as tensors or arrays; or a
            ``torch.utils.data.Dataset`` of such pairs.
        attacks: ``standard`` (AutoAttack), ``fast`` (APGD-CE, APGD-T), ``none``, or stages in
            order. Default: those of a stored run, else ``standard``.
        norm: ``Linf`` or ``L2``. Default: that of a stored run, else ``Linf``.
        eps: radius, such as 8 / 255 or "8/255", for images in [0, 1]. If there are several radii,
            each is evaluated and the result for the largest is returned. Default: the radius of a
            stored run, else the dataset's customary Linf radius.
        n: evaluate the first ``n`` test images; the result is marked partial.
        precision: draw images at random and stop once robust accuracy on the whole test set is
            known to within this, such as 0.01, by an interval that is valid at any stopping time.
            The result is marked sequential and partial; ``n`` then limits the images drawn.
        name: name of the model in tables; by default derived from the model.
        results: the results folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: number of processes; each must be able to import the model's class.
        normalize: normalise images before the model: ``dataset``, ``imagenet`` or (mean, std).
        arch: architecture of a checkpoint file that does not name one.
        weights: local weights file for a zoo model or a function.
        weights_key: key of the weights in a file that holds several.
        root: folder that holds the datasets.
        quiet: show no progress.
        **settings: further fields of the protocol, such as ``seed``, ``chunk_size`` or
            ``budget={"n_iter": 20, "n_queries": 1000}``; the result is labelled with the budget.
            Default: those of a stored run.

    Raises:
        UserError: the model, the data or a setting cannot be used; the message says why.
    """
    if not isinstance(name, str | None):
        raise UserError(f"name is of type {type(name).__name__}: give text")
    folder, reporter = Path(results), Reporter(quiet=quiet)
    stages = ATTACK_SETS.get(attacks, attacks) if isinstance(attacks, str) else attacks
    given: dict[str, Any] = {"attacks": stages, "norm": norm, "eps": eps, "workers": workers}
    given |= {"limit": n} if precision is None else {"half_width": precision, "n_max": n}
    given |= settings
    sequential = precision is not None or settings.get("order") == "random"
    run = stored_run(folder, model) if isinstance(model, str | Path) else None
    own: dict[str, Any] = {"arch": arch, "weights": weights, "weights_key": weights_key}
    _refuse_unused(model, run, normalize=normalize, name=name, **own)
    images = None if root is None else Path(root)
    if run is not None:
        return _evaluate_run(run, data, given, images, device, reporter, sequential=sequential)
    module = None if isinstance(model, str | Path) else inputs.as_module(model)
    loaded = inputs.test_images(data, module, images)
    if eps is None and not isinstance(data, str | Dataset) and (stages is None or stages):
        raise UserError("these images have no customary radius: give eps, such as 8 / 255")
    default = {"eps": loaded.info.default_eps}
    default |= resolve.random_order(loaded.info) if sequential else {}
    protocol = resolve.evaluation(default, given, ())
    where: dict[str, Any] = {"results": folder, "reporter": reporter}
    where |= {"device": device, "name": name}
    if module is None:
        named = {"normalize": normalize, **own, **where}
        with own_random_state(choose_device(device)):
            return result_of(external.evaluate_external(str(model), loaded, protocol, **named))
    network, facts = inputs.probed(module, loaded.info, normalize, name)
    before = device_of(module)
    try:
        return result_of(external.evaluate_model(network, loaded, protocol, facts=facts, **where))
    finally:
        module.to(before)


def decide(
    a: Model,
    b: Model,
    data: Any,
    *,
    margin: float = 0.01,
    alpha: float = 0.05,
    n: int | None = None,
    results: str | Path = "results",
    workers: int = 1,
    quiet: bool = False,
    **settings: Any,
) -> Decision:
    """Find out which of two models is more robust, using only as many images as needed.

    Both are attacked on the same images, drawn at random. Each chunk gives an interval for the
    difference of their robust accuracies on the whole test set, valid at any stopping time. The
    evaluations are stored; repeating the call continues or returns them.

    Args:
        a: the first model, as for ``evaluate``.
        b: the second.
        data: the test images, as for ``evaluate``.
        margin: the models are equal if their accuracies differ by no more than this.
        alpha: probability of calling one model better if there is no difference, or of calling
            them equal if they differ by more than the margin.
        n: stop undecided after this many images.
        results: the results folder.
        workers: number of processes that share the work.
        quiet: show no progress.
        **settings: further arguments of ``evaluate``, for both models, with one radius. Default:
            norm, attacks, budget and radius of the first model that is a stored run, else as for
            ``evaluate``.

    Raises:
        UserError: a model, the data or a setting cannot be used; the message says why.
    """
    folder, reporter = Path(results), Reporter(quiet=quiet)
    runs = [stored_run(folder, model) for model in (a, b) if isinstance(model, str | Path)]
    own = next((own_protocol(run) for run in runs if run), {})
    chosen = {name: settings.get(name) for name in ("norm", "eps")}
    radii = resolve.evaluation(own, chosen, ()).eps
    settings = own | settings
    if len(radii) > 1:
        raise UserError(f"models are compared at one radius, not at {len(radii)}: give one eps")
    shared: dict[str, Any] = {"results": folder, "workers": workers, "quiet": quiet}

    def grow(model: Model) -> Callable[[int], EvaluationDirectory]:
        def evaluate_on(images: int) -> EvaluationDirectory:
            found = evaluate(model, data, **settings, **shared, order="random", n_max=images)
            return RunDirectory(folder, found.run_id).evaluation(found.evaluation_id)

        return evaluate_on

    return until_decided(
        grow(a),
        grow(b),
        DecisionRule(alpha, margin, n),
        chunks=workers,
        show=lambda look: reporter.line(str(look)),
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
    """Train a model with a method, evaluate it and store both, like the command ``run``.

    Repeating the call resumes an interrupted run or returns the stored result.

    Args:
        method: a registered method, or a ``Method``, which is registered under its title.
        dataset: a registered dataset or ``folder:PATH``; default: the recipe's, else digits.
        recipe: one of the method's recipes; default: the one for the dataset.
        results: the results folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        quiet: show no progress.
        **settings: ``arch``, ``epochs``, ``batch_size``, ``lr``, ``seed``, ``train_limit``,
            ``teacher``, ``teacher_arch``, ``generated``, ``root``, ``attacks``, ``norm``, ``eps``,
            ``n``, ``workers`` or ``track``; or sections of the configuration, such as
            ``params={"temperature": 2}`` or ``training={"optimizer": {"lr": 0.1}}``.

    Raises:
        UserError: a name or a setting is invalid, or training diverged; the message says why.
    """
    if not isinstance(method, str):
        title = method.card.title.lower().replace(" ", "-")
        if title not in METHODS:
            METHODS.register(title, method)
        elif METHODS.get(title) is not method:
            raise UserError(f"another method is registered as {title!r}: choose another title")
        method = title
    options = {SETTINGS.get(name, name): value for name, value in settings.items()}
    options |= {"results": Path(results), "device": device}
    config = resolve.resolve(method, recipe=recipe, dataset=dataset, options=options)
    passed = {"python": json.loads(json.dumps(settings, default=str))}
    with own_random_state(choose_device(device)):
        return result_of(runner.run(config, Reporter(quiet=quiet), passed))


def load_model(
    model: str | Path,
    *,
    results: str | Path = "results",
    dataset: str | None = None,
    arch: str | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    normalize: str | Statistics | None = None,
    norm: str = "Linf",
) -> nn.Module:
    """Load a trained model for images in [0, 1], in eval mode on the CPU.

    Args:
        model: a stored run, a checkpoint file, ``robustbench:NAME``, ``timm:NAME``,
            ``torchvision:NAME`` or ``package.module:function``.
        results: the results folder, for a run.
        dataset: the dataset that the model classifies; required unless ``model`` is a run.
        arch: architecture of a checkpoint file that does not name one.
        weights: local weights file for a zoo model or a function.
        weights_key: key of the weights in a file that holds several.
        normalize: normalise images before the model: ``dataset``, ``imagenet`` or (mean, std).
        norm: RobustBench's threat model.

    Raises:
        UserError: the model does not exist or does not fit the dataset.
    """
    run = stored_run(Path(results), model)
    if run is not None:
        check_registered(run)
        with own_random_state(torch.device("cpu")):
            return load_run_model(run)
    if dataset is None:
        raise UserError(f"{model} is not a stored run: give the dataset that it classifies")
    info = dataset_info(dataset)
    with own_random_state(torch.device("cpu")):
        return load_external(
            str(model),
            dataset_info=info,
            arch=arch,
            weights=weights,
            weights_key=weights_key,
            normalize=normalize,
            threat=norm,
        )[0]


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
    """Compute adversarial images with one of AutoAttack's stages.

    Args:
        model: maps images [B, K, H, W] in [0, 1] to logits [B, C].
        images: clean images [B, K, H, W] in [0, 1].
        labels: true classes [B].
        name: ``apgd-ce``, ``apgd-t``, ``fab-t`` or ``square``.
        eps: radius, for images in [0, 1].
        norm: ``Linf`` or ``L2``.
        seed: seed of the attack; the global random state is left unchanged.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: images per forward pass; default: all.
        **budget: ``n_iter``, ``n_restarts``, ``n_queries`` or ``n_target_classes``.

    Returns:
        Images like ``images``, in [0, 1] and within ``eps``; an image that the attack did not
        break may be returned unchanged.

    Raises:
        UserError: the attack is unknown or a value is invalid.
    """
    where, module = choose_device(device), inputs.as_module(model)
    settings = {"attacks": (name,), "norm": norm, "eps": eps, "budget": budget}
    protocol: EvalProtocol = validated(EvalProtocol, settings)
    inputs.check_batch(images, labels, batch_size)
    check_diameter(protocol.norm, protocol.eps, images.shape[1:].numel())
    x, y = images.to(where), labels.to(where).long()
    # The networks of a function are on the device on which it calls them.
    before = where if isinstance(module, FunctionModel) else device_of(module)
    try:
        with own_random_state(where):
            num_classes = inputs.classes_of(module.to(where), x, y)
            with untouched(module):
                network = AttackModel(module, num_classes, Batching(batch_size))
                stage = make_attack(protocol.attacks[0], network, protocol, seed, where)
                found = stage.perturb(x.clone(), y.clone()).detach()
    finally:
        module.to(before)
    return clip_to_ball(found, x, protocol.norm, protocol.eps)[0].to(images.device)


def _evaluate_run(
    run: RunDirectory,
    data: Any,
    given: dict[str, Any],
    images: Path | None,
    device: str,
    reporter: Reporter,
    *,
    sequential: bool,
) -> Result:
    """Evaluate a stored run on its own dataset; ``given`` overrides its protocol."""
    name = run.record["dataset"]
    folder_of_run = str(data).startswith("folder:") and dataset_info(data, images).name == name
    if data != name and not folder_of_run:
        raise UserError(f"{run.run_id} is a run on {name}: give that as data")
    default = own_settings(run)
    if sequential:
        default |= resolve.random_order(dataset_info(name, images_root(run, images)))
    protocol = resolve.evaluation(default, given, ())
    with own_random_state(choose_device(device)):
        return result_of(runner.evaluate_run(run, protocol, images, device, reporter))


def _refuse_unused(model: Model, run: RunDirectory | None, **given: Any) -> None:
    """Refuse arguments that have no effect on a stored run or on a module.

    Raises:
        UserError: such an argument is given.
    """
    if run is not None:
        unused, what = given, f"{run.run_id} is a stored run"
    elif not isinstance(model, str | Path):
        unused = {name: given[name] for name in ("arch", "weights", "weights_key")}
        what = "the model is a module or a function"
    else:
        return
    found = [name for name, value in unused.items() if value is not None]
    if found:
        raise UserError(f"{' and '.join(found)} given, but {what}: leave that out")
