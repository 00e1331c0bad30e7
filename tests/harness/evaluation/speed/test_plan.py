"""The faster copy computes the same function; and if it does not, it cannot make a verdict."""

from collections.abc import Callable

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.evaluation.attack import job
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.attack.protocol import evaluation_id, is_standard
from harness.evaluation.driver import accuracies, evaluate
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.plan import apply, decide
from harness.evaluation.speed.precision import arithmetic
from harness.models import build_model

CPU = torch.device("cpu")


def with_statistics(model: nn.Module) -> nn.Module:
    """The model in eval mode, with BatchNorm statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


class Branching(nn.Module):
    """Neither BatchNorm may be folded: one's input is used twice, one's convolution runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shared = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x + self.bn(x)
        x = self.bn2(self.shared(x)) + self.shared(x)
        return x.mean((2, 3))


class Untraceable(nn.Module):
    """Its path depends on its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.mean() > 0 else -x.flatten(1)


def logits_and_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach(), gradient


@pytest.mark.parametrize(("name", "folded"), [("resnet8", 9), ("wrn-16-1", 6)])
def test_a_copy_gives_the_logits_and_gradients_of_the_network(name, folded):
    torch.manual_seed(0)
    model = with_statistics(build_model(name, 10))
    x = torch.rand(37, 3, 32, 32)
    plan = decide(model, x[:16], CPU)
    assert plan.folded == folded
    assert plan.channels_last
    copied = AttackModel(
        apply(model, plan), 10, Batching(tile=plan.tile), layout=torch.channels_last
    )
    for found, expected in zip(
        logits_and_gradient(copied, x), logits_and_gradient(model, x), strict=True
    ):
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_bits_of_an_image_do_not_depend_on_how_many_are_left():
    torch.manual_seed(0)
    model = with_statistics(build_model("resnet8", 10))
    x = torch.rand(64, 3, 32, 32)
    plan = decide(model, x[:32], CPU)
    batching = Batching(tile=plan.tile, multiple=plan.multiple)
    copied = AttackModel(apply(model, plan), 10, batching, layout=torch.channels_last)
    everything = logits_and_gradient(copied, x)
    for count in (1, 2, 7, 12, 15, 16, 17, 23, 31, 33, 47):
        pairs = zip(logits_and_gradient(copied, x[:count]), everything, strict=True)
        assert all(torch.equal(few, many[:count]) for few, many in pairs), count


def test_what_may_not_be_folded_is_not():
    torch.manual_seed(0)
    model = with_statistics(Branching())
    x = torch.rand(4, 1, 8, 8)
    plan = decide(model, x, CPU)
    assert plan.folded == 0
    torch.testing.assert_close(apply(model, plan)(x), model(x), rtol=1e-5, atol=1e-6)


class OnTheEdge(nn.Module):
    """A network in which rounding decides for each image whether a ReLU is open."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        activations = self.bn(self.conv(x)).relu()
        return activations.mean((2, 3))


def test_rounding_in_float32_keeps_no_network_from_being_folded():
    """One ReLU that opens by rounding moved the gradients of a network by a hundredth."""
    torch.manual_seed(0)
    model = with_statistics(OnTheEdge())
    x = torch.rand(4, 1, 3, 3)
    with torch.no_grad():
        # BatchNorm's answer to these images is 0 but for rounding.
        model.conv.weight.fill_(1)
        x /= x.sum((1, 2, 3), keepdim=True)
        model.bn.running_mean.fill_(1)
        model.bn.bias.zero_()
    assert decide(model, x, CPU).folded == 1


def test_a_network_that_cannot_be_traced_runs_unchanged_and_the_plan_notes_it():
    x = torch.rand(4, 1, 2, 2)
    plan = decide(Untraceable(), x, CPU)
    assert plan.folded == 0
    assert "not folded" in plan.notes[0]
    assert torch.equal(apply(Untraceable(), plan)(x), Untraceable()(x))


class Straight(torch.autograd.Function):
    """The identity, whose gradient is threefold: a backward pass of its own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x + 0

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 3 * gradient


class OwnBackward(nn.Module):
    """A network that defines how it is differentiated, which a tracer does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.bn(self.conv(Straight.apply(x))).mean((2, 3))
        return logits


def test_a_network_with_a_backward_pass_of_its_own_keeps_it():
    torch.manual_seed(0)
    model = with_statistics(OwnBackward())
    x = torch.rand(4, 1, 8, 8)
    plan = decide(model, x, CPU)
    assert plan.folded == 0
    assert plan.notes[0].startswith("not folded: gradients moved")
    copied = apply(model, plan)
    for found, expected in zip(
        logits_and_gradient(copied, x), logits_and_gradient(model, x), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


class Lying(nn.Module):
    """A network whose logits have one class shifted up."""

    def __init__(self, network: nn.Module, shift: float) -> None:
        super().__init__()
        self.network, self.shift = network, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits + self.shift * torch.eye(logits.shape[1])[3]


def test_a_copy_that_lies_breaks_no_image_that_the_network_gets_right(
    network, digits, new_run, monkeypatch
):
    """Radius 0.001 breaks nothing here, though the copy is wrong on many images from the start."""
    short = AttackBudget(n_iter=5, n_target_classes=3)
    config = EvalConfig(
        eps=0.001, limit=50, chunk_size=50, attacks=("apgd-ce", "apgd-t"), budget=short
    )
    x = digits.images_float(slice(50))
    with torch.no_grad():
        truth = network(x).argmax(1)
        lied_to = (Lying(network, 8.0)(x).argmax(1) != truth) & (truth == digits.labels[:50])
    assert lied_to.sum() >= 10
    monkeypatch.setattr(job, "apply", lambda model, plan: Lying(apply(model, plan), 8.0))
    (result,) = evaluate(network, digits, config, new_run("lied"), device=CPU)
    broken_by = result.verdicts["broken_by"]
    assert broken_by.isna().sum() == (truth == digits.labels[:50]).sum()
    assert set(broken_by.dropna()) <= {"clean"}


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"budget": {"n_iter": 101}}])
def test_what_is_not_the_standard_protocol_is_never_called_autoattack(change):
    (standard,) = EvalConfig().protocols()
    (other,) = EvalConfig.model_validate(change).protocols()
    verdicts = pa.table({"broken_by": [None, "clean", "square"]})
    assert is_standard(standard, 10)
    assert "aa" in accuracies(verdicts, standard, 10, len(verdicts))
    assert not is_standard(other, 10)
    assert "aa" not in accuracies(verdicts, other, 10, len(verdicts))
    hashes = {"data_sha256": "0", "model_sha256": "0"}
    assert evaluation_id(standard, 10, **hashes) != evaluation_id(other, 10, **hashes)


def test_attacks_may_use_tf32_and_the_judge_may_not(network, digits, new_run):
    seen: list[tuple[str, bool]] = []

    class Logging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            seen.append((torch.backends.cudnn.conv.fp32_precision, torch.is_grad_enabled()))
            return self.inner(x)

    config = EvalConfig(
        eps=0.1, limit=20, attacks=("apgd-ce",), budget=AttackBudget(n_iter=2), accelerate=False
    )
    evaluate(Logging(), digits, config, new_run("logged"), device=CPU)
    assert {precision for precision, gradient in seen if gradient} == {"tf32"}
    # The judge sees what the attack found; then the probe looks for changed logits.
    assert [precision for precision, _ in seen[-2:]] == ["ieee", "tf32"]


def test_the_record_of_arithmetic_tells_attacks_from_judge_and_leaves_settings_alone():
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.deterministic
    found = arithmetic()
    after = torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.deterministic
    assert found["attacks"]["cudnn.conv"] == "tf32"
    assert found["judge"]["cudnn.conv"] == "ieee"
    assert found["attacks"]["cuda.matmul"] == found["judge"]["cuda.matmul"] == "ieee"
    assert before == after
