"""Networks against published parameter counts, against other implementations, and in themselves."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models import ARCHITECTURES, build_model
from harness.models.checkpoint import adapt_names
from harness.models.preact_resnet import PreActResNet, SamePad
from harness.models.resnet import ResNet
from harness.models.wide_resnet import WideResNet, silu_wide_resnet

# (architecture, classes) to parameters, as the released code of the literature builds them.
PUBLISHED_PARAMETERS = {
    ("resnet8", 100): 83_892,
    ("resnet14", 100): 181_108,
    ("resnet20", 100): 278_324,
    ("resnet32", 100): 472_756,
    ("resnet44", 100): 667_188,
    ("resnet56", 100): 861_620,
    ("resnet110", 100): 1_736_564,
    ("resnet8x4", 100): 1_233_540,
    ("resnet32x4", 100): 7_433_860,
    ("resnet18-cifar", 10): 11_173_962,
    ("resnet18-quarter", 10): 11_173_962,
    ("wrn-16-1", 100): 180_916,
    ("wrn-16-2", 100): 703_284,
    ("wrn-40-1", 100): 569_780,
    ("wrn-40-2", 100): 2_255_156,
}
ROUNDED_PARAMETERS = {
    ("wrn-34-10", 10): "46.16M",
    ("wrn-34-10", 100): "46.22M",
    ("wrn-28-10", 10): "36.48M",
    ("wrn-28-10-silu", 10): "36.48M",
    ("preact-resnet18", 10): "11.17M",
}
# One small network of each family.
FAMILIES = {
    "resnet": partial(ResNet, blocks=(2, 2, 2), channels=(4, 6, 8, 10)),
    "preact-resnet": partial(PreActResNet, blocks=2, channels=(4, 4, 8, 12, 16)),
    "wide-resnet": partial(WideResNet, depth=16, width=1),
    "wide-resnet-silu": partial(silu_wide_resnet, depth=16, width=1),
}
family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


def parameters(arch, num_classes):
    with torch.device("meta"):
        network = build_model(arch, num_classes)
    return sum(parameter.numel() for parameter in network.parameters())


def randomized(network):
    """The network in eval mode with BatchNorms that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(("arch", "num_classes"), PUBLISHED_PARAMETERS)
def test_parameter_count_is_the_published_one(arch, num_classes):
    assert parameters(arch, num_classes) == PUBLISHED_PARAMETERS[arch, num_classes]


@pytest.mark.parametrize(("arch", "num_classes"), ROUNDED_PARAMETERS)
def test_parameter_count_rounds_to_the_published_one(arch, num_classes):
    expected = ROUNDED_PARAMETERS[arch, num_classes]
    assert f"{parameters(arch, num_classes) / 1e6:.2f}M" == expected


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_every_architecture_is_named_and_sized_as_asked(arch):
    with torch.device("meta"):
        network = build_model(arch, 7, 1, 64)
        shown = network.features(torch.rand(2, 1, 64, 64))
    assert network.fc.out_features == 7
    assert network.fc.in_features == shown.pooled.shape[1]
    channels = list(network.feature_channels)
    assert [norm.num_features for norm in network.batchnorm_before_relu()] == channels
    assert [stage.shape[1] for stage in shown.stages] == channels
    assert [preact.shape for preact in shown.preacts] == [stage.shape for stage in shown.stages]


@family
@pytest.mark.parametrize("size", [8, 9, 28, 31, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_at_every_size(make, size, channels):
    network = make(5, channels, size).eval()
    with torch.no_grad():
        shown = network.features(torch.rand(2, channels, size, size))
    sides = [size, *(math.ceil(size / 2**i) for i in range(len(shown.stages) - 1))]
    expected = [
        (2, width, side, side) for width, side in zip(network.feature_channels, sides, strict=True)
    ]
    assert [tuple(stage.shape) for stage in shown.stages] == expected
    assert [tuple(preact.shape) for preact in shown.preacts] == expected
    assert shown.pooled.shape == (2, network.feature_channels[-1])
    assert shown.logits.shape == (2, 5)


@pytest.mark.parametrize("size", [0, 7, 65, 224])
def test_unsuitable_image_size_is_the_users_error(size):
    with pytest.raises(UserError, match=rf"images of {size}x{size} pixels .* 8 to 64"):
        build_model("resnet8", 10, 3, size)


def test_unknown_architecture_is_the_users_error():
    with pytest.raises(UserError, match=r"architecture 'wrn-34-11': did you mean wrn-34-10"):
        build_model("wrn-34-11", 10)


@family
@pytest.mark.parametrize("training", [True, False])
def test_features_agree_with_forward(make, training):
    network = randomized(make(5, 3, 16)).train(training)
    x = torch.rand(4, 3, 16, 16)
    shown = network.features(x)
    torch.testing.assert_close(shown.logits, network(x), rtol=0, atol=0)
    torch.testing.assert_close(network.fc(shown.pooled), shown.logits, rtol=0, atol=0)


@family
def test_features_move_running_statistics_once_and_as_forward_does(make):
    shown, plain = make(5, 3, 16), make(5, 3, 16)
    plain.load_state_dict(shown.state_dict())
    x = torch.rand(4, 3, 16, 16)
    shown.features(x)
    plain(x)
    counters = [v for k, v in shown.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == 1 for counter in counters)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shown.state_dict()[name], value, rtol=0, atol=0)


def test_resnet_stages_are_rectified_preacts():
    network = randomized(FAMILIES["resnet"](5, 3, 16))
    shown = network.features(torch.rand(4, 3, 16, 16))
    for stage, preact in zip(shown.stages, shown.preacts, strict=True):
        torch.testing.assert_close(stage, torch.relu(preact), rtol=0, atol=0)
        assert bool((preact < 0).any())
    torch.testing.assert_close(shown.pooled, shown.stages[-1].mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["preact-resnet", "wide-resnet", "wide-resnet-silu"])
def test_preactivation_preacts_are_stages_after_the_next_batchnorm(name):
    network = randomized(FAMILIES[name](5, 3, 16))
    shown = network.features(torch.rand(4, 3, 16, 16))
    norms = network.batchnorm_before_relu()
    for stage, preact, norm in zip(shown.stages, shown.preacts, norms, strict=True):
        torch.testing.assert_close(preact, norm(stage), rtol=0, atol=0)
    activated = network.activation(shown.preacts[-1])
    torch.testing.assert_close(shown.pooled, activated.mean(dim=(2, 3)))


@family
def test_batchnorms_before_relu_are_each_stages_own(make):
    network = make(5, 3, 16)
    norms = network.batchnorm_before_relu()
    assert len(set(norms)) == len(norms)
    assert [norm.num_features for norm in norms] == list(network.feature_channels)


@family
def test_gradient_flows_through_every_feature(make):
    network = make(5, 3, 8)
    shown = network.features(torch.rand(4, 3, 8, 8))
    for tensor in (*shown.stages, *shown.preacts, shown.pooled, shown.logits):
        (gradient,) = torch.autograd.grad(tensor.sum(), network.conv1.weight, retain_graph=True)
        assert bool(gradient.isfinite().all())


@family
def test_networks_compile_whole_and_can_be_traced(make):
    network = randomized(make(5, 3, 8))
    x = torch.rand(2, 3, 8, 8)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize("name", ["resnet", "wide-resnet", "wide-resnet-silu"])
def test_convolutions_start_with_the_published_spread(name):
    make = {
        "resnet": partial(ResNet, blocks=(1, 1, 1), channels=(32, 64, 128, 256)),
        "wide-resnet": partial(WideResNet, depth=10, width=4),
        "wide-resnet-silu": partial(silu_wide_resnet, depth=10, width=4),
    }[name]
    network = make(10)
    for convolution in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        expected = math.sqrt(2 / (convolution.kernel_size[0] ** 2 * convolution.out_channels))
        assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.15)
    if name != "resnet":
        assert not bool(network.fc.bias.any())


def test_silu_variant_differs_where_it_says():
    network = silu_wide_resnet(10, depth=16, width=1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.01}
    assert network.activation is nn.functional.silu
    assert sum(isinstance(module, SamePad) for module in network.modules()) == 2


@pytest.mark.parametrize(("size", "expected"), [(4, (0, 1)), (5, (1, 1))])
def test_same_padding_is_at_the_end_of_even_sides(size, expected):
    padded = SamePad()(torch.ones(1, 1, size, size))
    row = padded[0, 0].amax(dim=0)
    assert (int(row[0] == 0), int(row[-1] == 0)) == expected
    assert (padded.shape[-1] - 3) // 2 + 1 == math.ceil(size / 2)


class PlainResNet(nn.Module):
    """A CIFAR ResNet of torchvision's blocks, with the parameter names of published teachers."""

    def __init__(self, depth, channels, num_classes, basic_block):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        for i, (before, after) in enumerate(pairwise(channels), start=1):
            stride = 1 if i == 1 else 2
            change = before != after or stride == 2
            shortcut = (
                nn.Sequential(
                    nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                )
                if change
                else None
            )
            blocks = [basic_block(before, after, stride, shortcut)]
            blocks += [basic_block(after, after) for _ in range((depth - 2) // 6 - 1)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels[-1], num_classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


def assert_same_function(ours, reference):
    """Both compute the same logits once ours has taken the reference's weights by their names."""
    randomized(reference)
    ours.load_state_dict(adapt_names(reference.state_dict(), ours))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 1e-3, "a constant would agree with anything"


@pytest.mark.parametrize("channels", [(16, 16, 32, 64), (8, 16, 32, 64)])
def test_resnet_is_the_published_function(channels):
    from harness.compat import import_torchvision

    basic_block = import_torchvision().models.resnet.BasicBlock
    reference = PlainResNet(14, channels, 10, basic_block)
    assert_same_function(ResNet(10, blocks=(2, 2, 2), channels=channels), reference)


class TestAgainstRobustBench:
    """The same functions as RobustBench's implementations of the published networks."""

    @pytest.fixture(autouse=True)
    def _robustbench(self):
        pytest.importorskip("gdown", reason="RobustBench is not installed")
        from harness.compat import import_robustbench

        import_robustbench()

    def test_wide_resnet(self):
        from robustbench.model_zoo.architectures.wide_resnet import WideResNet as Reference

        assert_same_function(WideResNet(10, depth=16, width=2), Reference(16, 10, 2))

    def test_silu_wide_resnet(self):
        from robustbench.model_zoo.architectures.dm_wide_resnet import DMWideResNet

        reference = DMWideResNet(10, 16, 2, activation_fn=nn.SiLU, mean=(0.0,) * 3, std=(1.0,) * 3)
        assert_same_function(silu_wide_resnet(10, depth=16, width=2), reference)

    def test_preact_resnet18(self):
        from robustbench.model_zoo.architectures.resnet import PreActBlockV2
        from robustbench.model_zoo.architectures.resnet import PreActResNet as Reference

        reference = Reference(PreActBlockV2, [2, 2, 2, 2], bn_before_fc=True)
        assert_same_function(build_model("preact-resnet18", 10), reference)
