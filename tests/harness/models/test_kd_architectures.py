"""The distillation literature's networks: published counts, other implementations, themselves."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d

from harness.compat import import_torchvision
from harness.errors import UserError
from harness.models import build_model
from harness.models.checkpoint import adapt_names, load_weights
from harness.models.mobilenet import InvertedResidual, MobileNetV2, SeparableBlock
from harness.models.resnet import Bottleneck, ImageNetResNet, ResNet
from harness.models.shufflenet import GroupedBlock, ShuffleNetV2, channel_shuffle
from methods._pairs import PAIRS

# Architecture to classes, image size, parameters, millions of multiplications of one image, and
# channels and side of the stem and of each stage.
NARROW = [(16, 32), (16, 32), (32, 16), (64, 8)]
WIDE = [(32, 32), (64, 32), (128, 16), (256, 8)]
PUBLISHED = {
    "resnet8": (100, 32, 83_892, 12.5, NARROW),
    "resnet20": (100, 32, 278_324, 40.8, NARROW),
    "resnet32": (100, 32, 472_756, 69.1, NARROW),
    "resnet56": (100, 32, 861_620, 125.8, NARROW),
    "resnet110": (100, 32, 1_736_564, 253.2, NARROW),
    "resnet8x4": (100, 32, 1_233_540, 177.1, WIDE),
    "resnet32x4": (100, 32, 7_433_860, 1083.0, WIDE),
    "wrn-16-2": (100, 32, 703_284, 101.1, [(16, 32), (32, 32), (64, 16), (128, 8)]),
    "wrn-40-1": (100, 32, 569_780, 83.3, NARROW),
    "wrn-40-2": (100, 32, 2_255_156, 327.6, [(16, 32), (32, 32), (64, 16), (128, 8)]),
    "vgg8": (100, 32, 3_965_028, 96.2, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "vgg13": (100, 32, 9_462_180, 284.9, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "mobilenet-v2": (100, 32, 812_836, 6.5, [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)]),
    "shufflenet-v1": (100, 32, 949_258, 38.7, [(24, 32), (240, 16), (480, 8), (960, 4)]),
    "shufflenet-v2": (100, 32, 1_355_528, 44.5, [(24, 32), (116, 16), (232, 8), (464, 4)]),
    "resnet50": (
        *(100, 32, 23_705_252, 1298.0),
        [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)],
    ),
    "imagenet-resnet18": (
        *(1000, 224, 11_689_512, 1814),
        [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)],
    ),
    "imagenet-resnet34": (
        *(1000, 224, 21_797_672, 3664),
        [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)],
    ),
    "imagenet-resnet50": (
        *(1000, 224, 25_557_032, 4089),
        [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)],
    ),
    "mobilenet-v1": (
        *(1000, 224, 4_231_976, 569),
        [(32, 112), (128, 56), (256, 28), (512, 14), (1024, 7)],
    ),
}
POOLED = {"mobilenet-v2": 1280, "shufflenet-v2": 1024}

SMALL = (4, 8, 8, 12, 16)
# One network of each family, small where the family allows it.
FAMILIES = {
    "vgg": partial(build_model, "vgg8"),
    "mobilenet-v1": partial(build_model, "mobilenet-v1"),
    "mobilenet-v2": partial(build_model, "mobilenet-v2"),
    "shufflenet-v1": partial(build_model, "shufflenet-v1"),
    "shufflenet-v2": partial(build_model, "shufflenet-v2"),
    "bottlenecks": partial(ResNet, block=Bottleneck, blocks=(2, 1, 1, 2), channels=SMALL),
    "imagenet": partial(ImageNetResNet, blocks=(1, 2, 1, 1), channels=SMALL),
}
family = pytest.mark.parametrize("name", FAMILIES)


def make(name, size=32):
    return FAMILIES[name](5, 3, size)


def randomized(network):
    """The network in eval mode with BatchNorms that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def meta(arch, classes, size):
    with torch.device("meta"):
        return build_model(arch, classes, 3, size)


def test_every_network_of_the_distillation_tables_is_among_them():
    named = {arch for pair in PAIRS.values() for arch in (pair.teacher, pair.student)}
    assert named <= PUBLISHED.keys()


@pytest.mark.parametrize("arch", PUBLISHED)
def test_parameters_multiplications_and_shapes_are_the_published_ones(arch):
    classes, size, parameters, millions, shapes = PUBLISHED[arch]
    network = meta(arch, classes, size).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    counts = []

    def count(module, _, output):
        counts.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    shown = network.features(torch.empty(1, 3, size, size, device="meta"))
    # As many digits as were published.
    digits = 1 if size == 32 else 0
    assert round(sum(counts) / 1e6, digits) == millions
    for tensors in (shown.stages, shown.preacts):
        assert [tuple(t.shape) for t in tensors] == [(1, k, side, side) for k, side in shapes]
    assert shown.pooled.shape == (1, POOLED.get(arch, shapes[-1][0]))
    assert shown.logits.shape == (1, classes)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_sizes_that_suit(arch):
    small = PUBLISHED[arch][1] == 32
    accepted, refused = ((8, 9, 33, 64), (7, 65)) if small else ((32, 45, 512), (31, 513))
    for size in accepted:
        network = meta(arch, 5, size)
        assert network.features(torch.empty(2, 3, size, size, device="meta")).logits.shape == (2, 5)
    for size in refused:
        wanted = "8 to 64" if small else "32 to 512"
        with pytest.raises(UserError, match=rf"images of {size}x{size} pixels .* {wanted}"):
            meta(arch, 5, size)


@family
@pytest.mark.parametrize("training", [True, False])
def test_features_agree_with_forward(name, training):
    network = randomized(make(name)).train(training)
    x = torch.rand(4, 3, 32, 32)
    shown = network.features(x)
    torch.testing.assert_close(shown.logits, network(x), rtol=0, atol=0)
    torch.testing.assert_close(network.fc(shown.pooled), shown.logits, rtol=0, atol=0)


@family
def test_features_move_running_statistics_once_and_as_forward_does(name):
    shown, plain = make(name), make(name)
    plain.load_state_dict(shown.state_dict())
    x = torch.rand(4, 3, 32, 32)
    shown.features(x)
    plain(x)
    counters = [v for k, v in shown.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == 1 for counter in counters)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(shown.state_dict()[key], value, rtol=0, atol=0)


@family
def test_gradients_of_features_are_those_of_forward(name):
    network = randomized(make(name)).train()
    x = torch.rand(4, 3, 32, 32)
    parameters = list(network.parameters())
    by_forward = torch.autograd.grad(network(x).logsumexp(1).sum(), parameters)
    shown = network.features(x)
    by_features = torch.autograd.grad(
        shown.logits.logsumexp(1).sum(), parameters, retain_graph=True
    )
    torch.testing.assert_close(by_features, by_forward, rtol=1e-4, atol=1e-5)
    first = parameters[0]
    for tensor in (*shown.stages, *shown.preacts, shown.pooled):
        (gradient,) = torch.autograd.grad(tensor.square().sum(), first, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


@family
def test_stages_are_activated_preacts(name):
    shown = randomized(make(name)).features(torch.rand(4, 3, 32, 32))
    for i, (stage, preact) in enumerate(zip(shown.stages, shown.preacts, strict=True)):
        linear = name == "mobilenet-v2" and i > 0
        expected = preact if linear else torch.relu(preact)
        torch.testing.assert_close(stage, expected, rtol=0, atol=0)
        assert bool((preact < 0).any())


# The BatchNorms that shufflenet-v2 returns are copies.
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"shufflenet-v2"}))
def test_batchnorm_before_relu_enters_preacts_unchanged(name):
    """One more in its bias is one more in every value of its preact."""
    network = randomized(make(name))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = network.features(x).preacts
        for i, norm in reversed([*enumerate(network.batchnorm_before_relu())]):
            norm.bias += 1
            torch.testing.assert_close(
                network.features(x).preacts[i], before[i] + 1, rtol=1e-4, atol=1e-4
            )


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


@family
def test_networks_compile_whole_and_can_be_traced(name):
    network = randomized(make(name))
    x = torch.rand(2, 3, 32, 32)
    expected = network(x)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), expected)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


def assert_same_function(ours, reference, size=32):
    """Both give the same logits once the reference's weights are loaded by their names."""
    randomized(reference)
    load_weights(ours, reference.state_dict(), "the reference")
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = reference(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-3, atol=1e-3)
    assert float(expected.std()) > 1e-2, "a constant would agree with anything"


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_imagenet_resnets_take_torchvisions_weights(depth):
    reference = getattr(import_torchvision().models, f"resnet{depth}")(num_classes=7)
    assert_same_function(build_model(f"imagenet-resnet{depth}", 7, 3, 64), reference, 64)


def test_resnet50_for_small_images_is_the_published_function():
    reference = import_torchvision().models.resnet50(num_classes=7)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    ours = build_model("resnet50", 7)
    assert_same_function(ours, reference, 16)
    published = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for name, value in reference.state_dict().items()
    }
    assert adapt_names(published, ours).keys() == ours.state_dict().keys()


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
    from torchvision.models.mobilenetv2 import InvertedResidual as Reference

    reference = randomized(Reference(inputs, outputs, stride, expand_ratio=6))
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


@pytest.mark.parametrize("name", ["vgg", "mobilenet-v2"])
def test_published_initialisation(name):
    network = make(name)
    for convolution in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        expected = (2 / (convolution.kernel_size[0] ** 2 * convolution.out_channels)) ** 0.5
        assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.3)
        assert convolution.bias is None or not bool(convolution.bias.any())
    assert float(network.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not bool(network.fc.bias.any())


def test_first_inverted_residual_keeps_its_expansion_by_one():
    first = MobileNetV2(5, channels=(16, 8, 12, 16, 32, 48, 80, 160)).stages[0][0]
    assert first.conv1.weight.shape == (16, 16, 1, 1)
