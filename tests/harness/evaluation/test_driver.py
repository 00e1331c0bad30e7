"""What an evaluation promises whatever the model, the batches and the restarts."""

import shutil
from copy import deepcopy

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.data import ImageSet
from harness.errors import UserError
from harness.evaluation.analysis.statistics import wilson_interval
from harness.evaluation.attack import job
from harness.evaluation.attack.judge import TOLERANCE, clip_to_ball, perturbation_norm, predict
from harness.evaluation.driver import EvaluationResult, evaluate
from harness.store.rundir import RunDirectory
from tests.harness.evaluation.conftest import evaluated

CPU = torch.device("cpu")
SHORT = AttackBudget(n_iter=20, n_queries=200)
PAIR = EvalConfig(eps=0.13, attacks=("apgd-ce", "apgd-t"), chunk_size=16, limit=40, budget=SHORT)


@pytest.fixture(scope="module")
def finished(
    network: nn.Module, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, EvaluationResult]:
    """An undisturbed evaluation, which no test changes."""
    run = RunDirectory.create(tmp_path_factory.mktemp("results"), "undisturbed")
    run.update(kind="loaded", dataset="digits")
    return run, evaluated(network, digits, run, PAIR)


@pytest.fixture
def undisturbed(finished: tuple[RunDirectory, EvaluationResult]) -> pd.DataFrame:
    return finished[1].verdicts


@pytest.mark.parametrize("device_batch", [1, 7])
def test_verdicts_do_not_depend_on_the_device_batch(
    device_batch, network, digits, new_run, undisturbed
):
    found = evaluated(network, digits, new_run("batched"), PAIR, device_batch=device_batch).verdicts
    pd.testing.assert_frame_equal(found, undisturbed, check_exact=True)


def test_finished_chunks_are_kept_and_damaged_ones_made_again(
    network, digits, new_run, finished, undisturbed, interrupt
):
    run = new_run("resumed")
    shutil.copytree(finished[0].evaluations_path, run.evaluations_path)
    for evaluation in run.evaluations_path.glob("*/evaluation.json"):
        evaluation.write_text(evaluation.read_text().replace("undisturbed", "resumed"))
    (evaluation,) = run.evaluations()
    kept, torn, gone = (evaluation.chunk_path(number) for number in range(3))
    before = kept.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:-20])
    interrupt(evaluation, 2)
    assert not gone.exists()
    again = evaluated(network, digits, run, PAIR).verdicts
    pd.testing.assert_frame_equal(again, undisturbed, check_exact=True)
    assert kept.stat().st_mtime_ns == before


def test_metrics_are_counts_of_verdicts_with_wilson_intervals(finished):
    run, result = finished
    broken = result.verdicts["broken_by"]
    correct = int((broken != "clean").sum())
    robust = int(broken.isna().sum())
    low, high = wilson_interval(robust, 40)
    assert result.metrics["clean"]["value"] == correct / 40
    assert result.metrics["apgd-t"] == {"value": robust / 40, "n": 40, "low": low, "high": high}
    assert result.metrics["robust"] == result.metrics["apgd-t"]
    assert "aa" not in result.metrics
    record = run.evaluations()[0].record
    assert record["protocol"]["partial"] is True
    assert record["protocol"]["attack_version"].startswith("custom(apgd-ce,apgd-t)")
    assert record["stages"]["apgd-ce"]["attacked"] == correct


def test_verdicts_are_consistent_row_by_row(undisturbed, digits):
    assert undisturbed["index"].tolist() == list(range(40))
    assert undisturbed["label"].tolist() == digits.labels[:40].tolist()
    robust = undisturbed["broken_by"].isna()
    assert (undisturbed[robust]["adv_pred"] == undisturbed[robust]["label"]).all()
    assert (undisturbed[~robust]["adv_pred"] != undisturbed[~robust]["label"]).all()
    attacked = undisturbed["broken_by"].isin(["apgd-ce", "apgd-t"])
    assert attacked.any()
    assert (undisturbed[attacked]["distance"] <= 0.13 + TOLERANCE).all()
    assert (undisturbed[attacked]["distance"] > 0).all()
    assert (undisturbed[~attacked]["distance"] == 0).all()
    assert (undisturbed[robust]["margin"] > 0).all()
    targeted = undisturbed[undisturbed["broken_by"] == "apgd-t"]
    assert targeted["target"].notna().all()
    assert (targeted["target"] != targeted["label"]).all()


def test_the_model_and_the_random_state_are_left_as_they_were(network, digits, new_run):
    model = deepcopy(network).train()
    model[0].weight.requires_grad_(False)
    before, random = deepcopy(model.state_dict()), torch.random.get_rng_state()
    evaluated(model, digits, new_run("left"), PAIR, attacks=("apgd-ce", "square"), limit=4)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.training
    assert model[1].training
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad
    assert model[3].weight.grad is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class Poisoned(nn.Module):
    """Answers NaN for every image, or for adversarial ones only."""

    def __init__(self, inner: nn.Module, always: bool) -> None:
        super().__init__()
        self.inner, self.always = inner, always

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        on_grid = ((x * 255 - (x * 255).round()).abs() < 1e-3).flatten(1).all(1)
        poisoned = torch.ones_like(on_grid) if self.always else ~on_grid
        return torch.where(poisoned[:, None], torch.nan, logits)


@pytest.mark.parametrize("always", [True, False])
def test_logits_that_are_not_finite_are_wrong(always, network, digits, new_run):
    result = evaluated(
        Poisoned(network, always), digits, new_run("nan"), PAIR, attacks=("apgd-ce",), limit=20
    )
    assert result.metrics["robust"]["value"] == 0
    assert (result.metrics["clean"]["value"] == 0) == always


def test_a_model_that_writes_to_its_buffers_voids_the_result(network, digits, new_run):
    """What is written only once must not be there already when the command is repeated."""
    run, model = new_run("void"), Remembering(network)
    for _ in range(2):
        # A copy, as a second command would load it.
        with pytest.raises(UserError, match="the evaluation changed the model"):
            evaluated(deepcopy(model), digits, run, PAIR, attacks=("apgd-ce",), limit=32)
        (evaluation,) = run.evaluations()
        assert evaluation.record["status"] == "error"
        assert not evaluation.finished_chunks()


class Remembering(nn.Module):
    """Writes down that it saw images that are not those of the test set."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("attacked", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        levels = x.detach() * 16
        self.attacked.logical_or_(((levels - levels.round()).abs() > 1e-3).any())
        logits: Tensor = self.inner(x)
        return logits


class Unusable(nn.Module):
    """Has the weights of a network, and must not be called."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


def test_a_finished_evaluation_is_given_as_it_is_stored(network, digits, new_run):
    model, run = Unusable(network), new_run("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unusable, "forward", lambda self, x: self.inner(x))
        first = evaluated(model, digits, run, PAIR, limit=16)
    (evaluation,) = run.evaluations()
    # What came from another results folder has verdicts, but no chunks.
    shutil.rmtree(evaluation.chunks_path)
    record = evaluation.record
    again = evaluated(model, digits, run, PAIR, limit=16)
    pd.testing.assert_frame_equal(again.verdicts, first.verdicts, check_exact=True)
    assert again.metrics == first.metrics
    assert evaluation.record == record
    # Stopped while images are made that were not kept before, it is what it was.
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, digits, run, PAIR, limit=16, save_adversarial="float32")
    assert evaluation.record == record
    # Verdicts that are not those of the record are no result.
    evaluation.verdicts_path.write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, digits, run, PAIR, limit=16)
    assert evaluation.record["status"] == "cancelled"


def test_several_radii_are_the_evaluations_of_each_alone(network, digits, new_run):
    run, shares = new_run("radii"), []
    shared = {"attacks": ("apgd-ce",), "limit": 20, "budget": SHORT}
    results = evaluate(
        network,
        digits,
        EvalConfig(eps="0.2,0,0.1", **shared),
        run,
        device=CPU,
        progress=lambda share, _: shares.append(share),
    )
    assert [len(result.protocol.attacks) for result in results] == [0, 1, 1]
    clean, small, large = (result.metrics["robust"]["value"] for result in results)
    assert clean > small > large
    assert shares == sorted(shares)
    assert shares[-1] == 1
    (alone,) = evaluate(network, digits, EvalConfig(eps=0.1, **shared), new_run("one"), device=CPU)
    assert alone.evaluation_id == results[1].evaluation_id
    pd.testing.assert_frame_equal(alone.verdicts, results[1].verdicts, check_exact=True)
    assert alone.protocol == results[1].protocol
    assert [each.record["protocol"]["eps"] for each in run.evaluations()].count(0.1) == 1


class Misled(nn.Module):
    """Takes images with much ink in the middle for another class.

    Like a copy whose rounding errs, but for so many images that a test sees what becomes of them.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        astray = x[:, :, 2:6, 2:6].mean(dim=(1, 2, 3)) > 0.5
        return torch.where(astray[:, None], logits.roll(1, dims=1), logits)


def test_images_that_the_attacked_copy_gets_wrong_are_attacked_all_the_same(
    network, digits, new_run, monkeypatch
):
    monkeypatch.setattr(job, "apply", lambda model, plan: Misled(model))
    run = new_run("misled")
    found = evaluated(network, digits, run, PAIR, eps=(0.4,), attacks=("apgd-t",))
    images = digits.images_float(slice(40))
    correct = found.verdicts["broken_by"] != "clean"
    lost = Misled(network)(images).argmax(1).numpy() != digits.labels[:40].numpy()
    (evaluation,) = run.evaluations()
    counted = evaluation.record["stages"]["apgd-t"]
    assert counted["by_judge"] == int((lost & correct).sum()) > 5
    assert counted["attacked"] == int(correct.sum())
    # At this radius none of them holds, unless it is not attacked.
    through_judge = found.verdicts[correct & lost]
    assert (through_judge["broken_by"] == "apgd-t").all()
    assert through_judge["target"].notna().all()


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_fewer_than_ten_classes_run_and_say_so(classes, digits, new_run):
    torch.manual_seed(classes)
    rows = (digits.labels < classes).nonzero()[:12, 0]
    info = digits.info.__class__(**{**vars(digits.info), "num_classes": classes, "class_names": ()})
    few = ImageSet(digits.images[rows], digits.labels[rows], info, "test")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    run = new_run("few")
    config = EvalConfig(eps=0.01, attacks=("apgd-ce", "apgd-t", "fab-t"), budget=SHORT)
    (result,) = evaluate(model, few, config, run, device=CPU)
    assert len(result.verdicts) == 12
    version = run.evaluations()[0].record["protocol"]["attack_version"]
    assert f"targets({classes - 1})" in version
    assert ("margin-loss" in version) == (classes < 4)


def test_more_images_than_there_are_is_the_users_mistake(network, digits, new_run):
    with pytest.raises(UserError, match="digits test has 360 images"):
        evaluated(network, digits, new_run("many"), PAIR, limit=361)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_images_that_left_the_ball_are_put_back(norm):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(6, 1, 4, 4, generator=generator)
    outside = clean + 0.5 * torch.randn(clean.shape, generator=generator)
    outside[5, 0, 0, 0] = torch.nan
    kept = (clean[:1] + 0.01).clamp(0, 1)
    found, moved = clip_to_ball(
        torch.cat([outside, kept]), torch.cat([clean, clean[:1]]), norm, 0.1
    )
    assert moved.tolist() == [True] * 6 + [False]
    assert torch.equal(found[6:], kept)
    assert torch.equal(found[5], clean[5])
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool((perturbation_norm(found[:6], clean, norm) <= 0.1 + TOLERANCE).all())


def test_ties_go_to_the_lowest_class_and_nan_to_none():
    logits = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0], [torch.nan, 0, 0], [torch.inf, 0, 0]])
    assert predict(logits).tolist() == [1, 0, -1, -1]
