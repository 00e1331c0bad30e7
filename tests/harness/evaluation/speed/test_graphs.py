"""Recorded passes give the verdicts of the network as it is, though they overwrite each other."""

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.errors import UserError
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.driver import evaluate
from harness.evaluation.speed import graphs
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.graphs import PassFn, RecordedNetwork
from harness.evaluation.speed.plan import Plan
from harness.evaluation.speed.precision import pinned
from harness.store.rundir import RunDirectory
from tests.harness.evaluation.conftest import evaluated

SHORT = AttackBudget(n_iter=5, n_queries=30, n_target_classes=2)
CONFIG = EvalConfig(eps=0.1, limit=60, chunk_size=20, budget=SHORT)
SIZES = (16, 32)
ON_GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
)


class Overwriting(torch.autograd.Function):
    """A pass as a CUDA graph replays it: each buffer is there once, the next pass overwrites it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, held: "Held") -> Tensor:
        ctx.held = held
        held.leaf.data.copy_(x)
        with torch.enable_grad():
            held.graph = held.network(held.leaf.clone())
        held.logits.copy_(held.graph.detach())
        return held.logits.detach()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        held: Held = ctx.held
        found = torch.autograd.grad(held.graph, held.leaf, gradient, retain_graph=True)
        held.gradient.copy_(found[0])
        return held.gradient.detach(), None


class Held:
    """In place of ``graphs.recorded`` on a CPU: the buffers of the passes at one batch size."""

    def __init__(self, network: PassFn, images: Tensor) -> None:
        assert not torch.is_autocast_enabled(images.device.type) or (
            not torch.is_autocast_cache_enabled()
        )
        self.network, self.leaf = network, images.detach().clone().requires_grad_()
        self.graph = network(images.clone())
        self.logits, self.gradient = self.graph.detach().clone(), torch.zeros_like(images)

    def __call__(self, x: Tensor) -> Tensor:
        assert x.shape == self.leaf.shape
        logits: Tensor = Overwriting.apply(x, self)
        return logits


@pytest.fixture
def overwriting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "recorded", Held)


def two_passes(model: PassFn, images: Tensor) -> list[Tensor]:
    """Logits and gradients of two batches, which go backward after both went forward."""
    leaves = [images[:43].clone().requires_grad_(), images[50:93].clone().requires_grad_()]
    logits = [model(leaf) for leaf in leaves]
    gradients = [
        torch.autograd.grad(each.square().sum(), leaf)[0]
        for each, leaf in zip(logits, leaves, strict=True)
    ]
    return [*(each.detach() for each in logits), *gradients]


@pytest.mark.parametrize("sizes", [(16, 32), (64,), (8, 128)])
@pytest.mark.parametrize("device", ["cpu", ON_GPU])
def test_a_pass_that_was_overwritten_is_repeated_before_it_goes_backward(
    device, sizes, network, digits, monkeypatch
):
    if device == "cpu":
        monkeypatch.setattr(graphs, "recorded", Held)
    images, network = digits.images_float(slice(100)).to(device), network.to(device)
    batching = Batching(graph_sizes=sizes)
    model = AttackModel(RecordedNetwork(network, batching), 10, batching)
    with pinned("reference"):
        expected, found = two_passes(network, images), two_passes(model, images)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
        assert model.repeated_images >= 43
        # The buffers are as treacherous as is assumed here.
        monkeypatch.setattr(AttackModel, "is_intact", lambda *_: True)
        careless = two_passes(model, images)
    network.cpu()
    assert not torch.allclose(careless[2], expected[2], atol=1e-2)


def test_a_pass_that_goes_backward_at_once_is_not_repeated(network, digits, overwriting):
    batching = Batching(graph_sizes=(64,))
    model = AttackModel(RecordedNetwork(network, batching), 10, batching)
    for start in (0, 43):
        x = digits.images_float(slice(start, start + 43)).requires_grad_()
        torch.autograd.grad(model(x).sum(), x)
    assert (model.forward_images, model.repeated_images) == (86, 0)


@pytest.mark.parametrize(
    ("limit", "count", "sizes"),
    [
        (None, 300, [64, 64, 64, 64, 64]),
        (None, 70, [64, 16]),
        (None, 5, [16]),
        (64, 64, [64]),
        (63, 40, [16, 16, 16]),
        (8, 20, [20]),
    ],
)
def test_batches_are_cut_and_padded_to_the_sizes_within_the_limit(limit, count, sizes):
    batching = Batching(limit, graph_sizes=(16, 64))
    pieces = batching.pieces(count)
    assert [stop for _, stop in pieces][-1] == count
    assert [batching.padded(stop - start) for start, stop in pieces] == sizes
    assert batching.graphs_kept(count) == 1


def test_passes_of_more_images_than_memory_allows_are_forgotten(network, digits, monkeypatch):
    made: list[int] = []

    def recorded(network: PassFn, images: Tensor) -> PassFn:
        made.append(len(images))
        assert images.is_contiguous(memory_format=torch.channels_last)
        return Held(network, images)

    monkeypatch.setattr(graphs, "recorded", recorded)
    batching = Batching(graph_sizes=(8, 32, 64))
    held = RecordedNetwork(network, batching)
    x = digits.images_float(slice(40)).contiguous(memory_format=torch.channels_last)
    model = AttackModel(held, 10, batching, layout=torch.channels_last)
    expected = model(x)
    assert made == [8, 32, 64]
    assert batching.halve(40)
    assert batching.limit == 16
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert tuple(held._passes) == (8,)
    assert made == [8, 32, 64]


@pytest.fixture(scope="module")
def plain(network, digits, tmp_path_factory):
    """The verdicts without recorded passes."""
    run = RunDirectory.create(tmp_path_factory.mktemp("plain"), "plain")
    run.update(kind="loaded", dataset="digits")
    result = evaluated(network, digits, run, CONFIG)
    assert set(result.verdicts["broken_by"].dropna()) >= {"clean", "apgd-ce"}
    assert result.verdicts["broken_by"].isna().sum() > 20  # of which every stage attacks some
    return result


@pytest.mark.parametrize("workers", [1, 2])
def test_verdicts_with_padded_passes(workers, plain, network, digits, new_run, interrupt):
    """All of every row is equal, also after a resumption, which keeps to the plan."""
    run = new_run("padded")
    found = evaluated(network, digits, run, CONFIG, graph_sizes=SIZES, workers=workers)
    assert found.evaluation_id == plain.evaluation_id
    assert found.verdicts.equals(plain.verdicts)
    directory = run.evaluation(found.evaluation_id)
    interrupt(directory, 1)
    resumed = evaluated(network, digits, run, CONFIG, workers=workers)
    assert resumed.verdicts.equals(plain.verdicts)
    assert directory.record["acceleration"]["graph_sizes"] == list(SIZES)


def test_verdicts_with_passes_that_overwrite_each_other(
    plain, network, digits, new_run, overwriting
):
    found = evaluated(network, digits, new_run("overwriting"), CONFIG, graph_sizes=(8, 16))
    assert found.verdicts.equals(plain.verdicts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_verdicts_of_recorded_passes_on_a_gpu(precision, network, digits, new_run):
    """Nearly those without: kernels for padded batches may round in another way."""
    config, cuda = CONFIG.model_copy(update={"precision": precision}), torch.device("cuda")
    (without,) = evaluate(network, digits, config, new_run("without"), device=cuda)
    config = config.model_copy(update={"graph_sizes": SIZES})
    (found,) = evaluate(network, digits, config, new_run("recorded"), device=cuda)
    differ = found.verdicts["broken_by"].isna() != without.verdicts["broken_by"].isna()
    assert differ.sum() <= 1
    network.cpu()


class Noisy(nn.Module):
    """Its answers are another ones each time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits + torch.randn_like(logits)


def stuck(network: PassFn, images: Tensor) -> PassFn:
    """A recording whose logits are those of the images of which it was made."""
    return lambda x: network(x.clone()) + (network(images.clone()) - network(x.clone())).detach()


def refused(network: PassFn, images: Tensor) -> PassFn:
    raise RuntimeError("operation not permitted when stream is capturing\nand a long story")


@pytest.mark.parametrize(
    ("wrap", "recorded", "reason"),
    [
        (Noisy, graphs.recorded, "replayed, logits moved by"),
        (nn.Sequential, stuck, "replayed, logits moved by"),
        (nn.Sequential, refused, "operation not permitted when stream is capturing"),
    ],
)
def test_a_network_that_cannot_be_recorded_is_refused_in_a_sentence(
    wrap: Callable[..., nn.Module], recorded, reason, network, digits, new_run, monkeypatch
):
    monkeypatch.setattr(graphs, "recorded", recorded)
    sentence = rf"recorded as CUDA graphs here \(RuntimeError: {reason}[^\n]*\): leave out"
    with pytest.raises(UserError, match=sentence):
        evaluated(wrap(network).eval(), digits, new_run("refused"), CONFIG, graph_sizes=SIZES)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"compile": True}, "needs accelerate without compile"),
        ({"accelerate": False}, "needs accelerate without compile"),
        ({"device_batch": 8}, "device_batch=8 allows none of graph_sizes, whose smallest is 16"),
        ({"graph_sizes": "0,16"}, "greater than or equal to 1"),
    ],
)
def test_settings_that_record_nothing_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        EvalConfig(**{"graph_sizes": (64, 16), **settings})
    assert EvalConfig(graph_sizes="64,16, 16").graph_sizes == (16, 64)


def test_a_plan_is_read_from_records_with_and_without_sizes():
    plan = Plan(folded=2, tile=32, graph_sizes=SIZES, notes=("a",))
    stored = json.loads(json.dumps(asdict(plan)))
    assert Plan.from_dict(stored) == plan
    del stored["graph_sizes"]
    assert Plan.from_dict(stored).graph_sizes == ()
