"""How far a batch is padded so that its images' bits do not depend on how many there are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.config import EvalConfig
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.driver import evaluate
from harness.evaluation.speed.batching import GRAIN, Batching
from harness.evaluation.speed.plan import Plan, apply, decide, smallest_multiple
from harness.evaluation.speed.rewriting import PaddedLinear

CPU = torch.device("cpu")


class Uneven(nn.Module):
    """Its last bits are others for batches that are no multiple of ``even``."""

    def __init__(self, even: int) -> None:
        super().__init__()
        self.even = even

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, :3]
        return logits if len(x) % self.even == 0 else logits * (1 + 2**-20)


@pytest.mark.parametrize(("even", "multiple"), [(1, 1), (2, 2), (8, 8), (16, 16), (3, GRAIN)])
def test_a_batch_is_padded_no_further_than_the_network_needs(even, multiple):
    assert smallest_multiple(Uneven(even), torch.rand(32, 1, 4, 4)) == multiple


class OddBackward(torch.autograd.Function):
    """The identity; its gradient is another for an odd number of images."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient * (1 + 2**-20) if len(gradient) % 2 else gradient


class UnevenGradient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OddBackward.apply(x).flatten(1)[:, :3]


def test_gradients_count_as_logits_do():
    assert smallest_multiple(UnevenGradient(), torch.rand(32, 1, 4, 4)) == 2


@pytest.mark.parametrize(
    ("multiple", "count", "padded"),
    [(1, 5, 5), (2, 5, 6), (2, 6, 6), (4, 17, 20), (16, 1, 16), (16, 17, 32), (64, 17, 32)],
)
def test_a_piece_is_padded_to_the_multiple(multiple, count, padded):
    assert Batching(tile=32, multiple=multiple).padded(count) == padded
    assert Batching(multiple=multiple).padded(count) == count


def test_an_attacked_network_sees_padded_batches_alone_and_answers_for_the_images():
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x.flatten(1)[:, :3]

    x = torch.rand(23, 1, 4, 4)
    model = AttackModel(Counting(), 3, Batching(tile=16, multiple=4))
    assert torch.equal(model(x), x.flatten(1)[:, :3])
    assert seen == [16, 8]


@pytest.mark.parametrize("rows", [1, 7, GRAIN, GRAIN + 3])
def test_a_padded_linear_layer_gives_each_row_the_bits_of_a_large_batch(rows):
    torch.manual_seed(0)
    layer = nn.Linear(64, 10)
    x = torch.randn(64, 64)
    plain = layer(x)
    layer.__class__ = PaddedLinear
    assert torch.equal(layer(x), plain)
    assert torch.equal(layer(x[:rows]), plain[:rows])
    assert layer(x[0]).shape == (10,)


def test_a_plan_of_a_release_that_padded_differently_is_not_used(
    network, digits, new_run, interrupt
):
    config = EvalConfig(eps=0.1, limit=20, chunk_size=10, attacks=("apgd-ce",))
    run = new_run("older")
    (begun,) = evaluate(network, digits, config, run, device=CPU)
    directory = run.evaluation(begun.evaluation_id)
    plan = directory.record["acceleration"]
    assert Plan.from_dict(plan).multiple == plan["multiple"]
    older = {name: value for name, value in plan.items() if name != "multiple"}
    with pytest.raises(KeyError):
        Plan.from_dict(older)
    directory.update(acceleration=older)
    interrupt(directory, 1)
    (resumed,) = evaluate(network, digits, config, run, device=CPU)
    assert resumed.verdicts.equals(begun.verdicts)
    assert directory.record["acceleration"] == plan


def test_linear_layers_are_padded_in_a_copy_for_the_cpu_alone(network, digits):
    x = digits.images_float(slice(32))
    plan = decide(network, x, CPU)
    kinds = {type(each) for each in apply(network, plan).modules()}
    assert PaddedLinear in kinds
    assert nn.Linear not in kinds
    on_gpu = replace(plan, tile=None)
    assert PaddedLinear not in {type(each) for each in apply(network, on_gpu).modules()}
    assert any(type(each) is nn.Linear for each in network.modules())
