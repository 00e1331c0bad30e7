"""Architectures against other implementations: the same functions and initialisation."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d

from harness.compat import import_robustbench, import_torchvision
from harness.models import build_model
from harness.models.external.unwrap import load_weights, nearest_weights
from harness.models.mobilenet import InvertedResidual, MobileNetV2, SeparableBlock
from harness.models.resnet import ResNet
from harness.models.shufflenet import GroupedBlock, ShuffleNetV2, channel_shuffle
from harness.models.wide_resnet import WideResNet, silu_wide_resnet
from tests.harness.models.networks import make, randomized


def assert_same_function(ours, reference, size=32, tolerance=1e-4):
    """Both give the same logits once the reference's weights are loaded by their names."""
    randomized(reference)
    load_weights(ours, reference.state_dict(), "the reference")
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = reference(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=tolerance, atol=tolerance)
    assert float(expected.std()) > 1e-2, "a constant would agree with anything"


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_imagenet_resnets_take_torchvisions_weights(depth):
    reference = getattr(import_torchvision().models, f"resnet{depth}")(num_classes=7)
    assert_same_function(build_model(f"imagenet-resnet{depth}", 7, 3, 64), reference, 64, 1e-3)


def test_resnet50_for_small_images_is_the_published_function():
    reference = import_torchvision().models.resnet50(num_classes=7)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    ours = build_model("resnet50", 7)
    assert_same_function(ours, reference, 16, 1e-3)
    published = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for name, value in reference.state_dict().items()
    }
    assert nearest_weights(ours, published).keys() == ours.state_dict().keys()


class PlainVGG(nn.Module):
    """A VGG with two convolutions a stage and the parameter names of published teachers."""

    def __init__(self):
        super().__init__()
        inputs = 3
        for i, width in enumerate((64, 128, 256, 512, 512)):
            layers = []
            for _ in range(2):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            setattr(self, f"block{i}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, 7)

    def forward(self, x):
        for i in range(3):
            x = nn.functional.max_pool2d(torch.relu(getattr(self, f"block{i}")(x)), 2)
        x = torch.relu(self.block4(torch.relu(self.block3(x))))
        return self.classifier(x.mean(dim=(2, 3)))


def test_vgg13_is_the_published_function():
    assert_same_function(build_model("vgg13", 7), PlainVGG())


def test_shufflenet_v2_is_torchvisions_with_a_stem_for_small_images():
    reference = import_torchvision().models.shufflenet_v2_x1_0(num_classes=7)
    reference.conv1[0] = nn.Conv2d(3, 24, 1, bias=False)
    reference.maxpool = nn.Identity()
    randomized(reference)
    ours = ShuffleNetV2(7).eval()
    values = reference.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), reference(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 1), (4, 4, 2)])
def test_inverted_residual_is_torchvisions_where_values_are_below_six(inputs, outputs, stride):
    mobilenet = import_torchvision("torchvision.models.mobilenetv2")
    reference = randomized(mobilenet.InvertedResidual(inputs, outputs, stride, expand_ratio=6))
    ours = InvertedResidual(inputs, outputs, stride, 6).eval()
    values = reference.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    x = torch.rand(2, inputs, 8, 8)
    torch.testing.assert_close(ours(x), reference(x), rtol=1e-4, atol=1e-5)


def test_channel_shuffle_deals_groups_out_in_turn():
    x = torch.arange(12.0).view(1, 12, 1, 1)
    assert channel_shuffle(x, 3).flatten().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_block_written_plainly(stride):
    block = randomized(GroupedBlock(24, 24 * stride, stride, groups=3, first_groups=3)).double()
    x = torch.rand(2, 24, 6, 6, dtype=torch.float64)
    inner = torch.relu(block.bn1(conv2d(x, block.conv1.weight, groups=3)))
    width = inner.shape[1] // 3
    inner = inner[:, [i % 3 * width + i // 3 for i in range(3 * width)]]
    inner = conv2d(inner, block.conv2.weight, stride=stride, padding=1, groups=3 * width)
    inner = torch.relu(block.bn2(inner))
    residual = block.bn3(conv2d(inner, block.conv3.weight, groups=3))
    beside = torch.cat([residual, avg_pool2d(x, 3, stride=2, padding=1)], 1) if stride == 2 else 0
    expected = torch.relu(beside if stride == 2 else residual + x)
    torch.testing.assert_close(block(x), expected)


def test_separable_block_written_plainly():
    block = randomized(SeparableBlock(6, 10, 2)).double()
    x = torch.rand(2, 6, 9, 9, dtype=torch.float64)
    each = torch.relu(block.bn1(conv2d(x, block.conv1.weight, stride=2, padding=1, groups=6)))
    expected = torch.relu(block.bn2(conv2d(each, block.conv2.weight)))
    torch.testing.assert_close(block(x), expected)


def test_first_inverted_residual_keeps_its_expansion_by_one():
    first = MobileNetV2(5).stages[0][0]
    assert first.conv1.weight.shape == (16, 16, 1, 1)


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


@pytest.mark.parametrize("channels", [(16, 16, 32, 64), (8, 16, 32, 64)])
def test_resnet_is_the_published_function(channels):
    basic_block = import_torchvision().models.resnet.BasicBlock
    reference = PlainResNet(14, channels, 10, basic_block)
    assert_same_function(ResNet(10, blocks=(2, 2, 2), channels=channels), reference)


class TestAgainstRobustBench:
    """The same functions as RobustBench's implementations of the published networks."""

    @pytest.fixture(autouse=True)
    def _robustbench(self):
        pytest.importorskip("gdown", reason="RobustBench is not installed")
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


# A network, the tolerance of its convolutions' spread, and its last layer's if published.
INITIALISED = {
    "resnet": (partial(ResNet, 10, blocks=(1, 1, 1), channels=(32, 64, 128, 256)), 0.15, None),
    "wide-resnet": (partial(WideResNet, 10, depth=10, width=4), 0.15, None),
    "wide-resnet-silu": (partial(silu_wide_resnet, 10, depth=10, width=4), 0.15, None),
    "vgg": (partial(make, "vgg"), 0.3, 0.01),
    "mobilenet-v2": (partial(make, "mobilenet-v2"), 0.3, 0.01),
}


@pytest.mark.parametrize("name", INITIALISED)
def test_published_initialisation(name):
    build, tolerance, last = INITIALISED[name]
    network = build()
    for convolution in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        expected = math.sqrt(2 / (convolution.kernel_size[0] ** 2 * convolution.out_channels))
        assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=tolerance)
        assert convolution.bias is None or not bool(convolution.bias.any())
    if last is not None:
        assert float(network.fc.weight.detach().std()) == pytest.approx(last, rel=0.1)
    if name != "resnet":
        assert not bool(network.fc.bias.any())


def test_gathered_batchnorms_of_shufflenet_v2_are_each_channels_own():
    """Without convolutions, each channel is the rectified constant that its BatchNorm makes."""
    network = randomized(ShuffleNetV2(5))
    for convolution in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        nn.init.zeros_(convolution.weight)
    shown = network.features(torch.rand(1, 3, 32, 32))
    norms = network.batchnorm_before_relu()
    assert norms[0] is network.bn1
    for stage, norm in zip(shown.stages, norms, strict=True):
        constant = norm.eval()(torch.zeros_like(stage))
        torch.testing.assert_close(stage, torch.relu(constant))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norms[1].weight.fill_(7)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
