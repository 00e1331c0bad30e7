"""Every architecture: published counts and shapes, and the invariants of its features."""

import math

import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models import ARCHITECTURES, build_model
from harness.models.preact_resnet import SamePad
from harness.models.wide_resnet import silu_wide_resnet
from methods._pairs import PAIRS
from tests.harness.models.networks import (
    FAMILIES,
    PREACTIVATION,
    RESNETS,
    make,
    randomized,
    size_of,
)

# Architecture to classes, image size, parameters, millions of multiplications of one image, and
# channels and side of the stem and of each stage.
BASIC = [(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)]
BOTTLENECKS = [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)]
BOTTLENECKS_32 = [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)]
SEPARABLE = [(32, 112), (128, 56), (256, 28), (512, 14), (1024, 7)]
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
    "resnet50": (100, 32, 23_705_252, 1298.0, BOTTLENECKS_32),
    "imagenet-resnet18": (1000, 224, 11_689_512, 1814, BASIC),
    "imagenet-resnet34": (1000, 224, 21_797_672, 3664, BASIC),
    "imagenet-resnet50": (1000, 224, 25_557_032, 4089, BOTTLENECKS),
    "mobilenet-v1": (1000, 224, 4_231_976, 569, SEPARABLE),
}
POOLED = {"mobilenet-v2": 1280, "shufflenet-v2": 1024}

# (architecture, classes) to parameters of other architectures, as released code builds them; of
# some only millions were published.
PARAMETERS = {
    ("resnet14", 100): 181_108,
    ("resnet44", 100): 667_188,
    ("resnet18-cifar", 10): 11_173_962,
    ("resnet18-quarter", 10): 11_173_962,
    ("wrn-16-1", 100): 180_916,
    ("wrn-34-10", 10): "46.16M",
    ("wrn-34-10", 100): "46.22M",
    ("wrn-28-10", 10): "36.48M",
    ("wrn-28-10-silu", 10): "36.48M",
    ("preact-resnet18", 10): "11.17M",
}
family = pytest.mark.parametrize("name", FAMILIES)


@pytest.mark.parametrize(("arch", "classes"), PARAMETERS)
def test_parameter_count_is_the_published_one(arch, classes):
    expected = PARAMETERS[arch, classes]
    count = sum(parameter.numel() for parameter in meta(arch, classes, 32).parameters())
    assert expected == (count if isinstance(expected, int) else f"{count / 1e6:.2f}M")


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_every_architecture_has_the_requested_classes_and_channels(arch):
    with torch.device("meta"):
        network = build_model(arch, 7, 1, 64)
        shown = network.features(torch.rand(2, 1, 64, 64))
    assert network.fc.out_features == 7
    assert network.fc.in_features == shown.pooled.shape[1]
    channels = list(network.feature_channels)
    assert [norm.num_features for norm in network.batchnorm_before_relu()] == channels
    assert [stage.shape[1] for stage in shown.stages] == channels
    assert [preact.shape for preact in shown.preacts] == [stage.shape for stage in shown.stages]


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
        limits = "8 to 64" if small else "32 to 512"
        with pytest.raises(UserError, match=rf"images of {size}x{size} pixels .* {limits}"):
            meta(arch, 5, size)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("size", [8, 9, 28, 31, 32, 64])
def test_shapes_at_every_size(name, size):
    network = RESNETS[name](5, 3, size).eval()
    with torch.no_grad():
        shown = network.features(torch.rand(2, 3, size, size))
    sides = [size, *(math.ceil(size / 2**i) for i in range(len(shown.stages) - 1))]
    expected = [
        (2, width, side, side) for width, side in zip(network.feature_channels, sides, strict=True)
    ]
    assert [tuple(stage.shape) for stage in shown.stages] == expected
    assert [tuple(preact.shape) for preact in shown.preacts] == expected
    assert shown.pooled.shape == (2, network.feature_channels[-1])
    assert shown.logits.shape == (2, 5)


@family
@pytest.mark.parametrize("training", [True, False])
def test_features_agree_with_forward(name, training):
    network = randomized(make(name)).train(training)
    x = torch.rand(4, 3, size_of(name), size_of(name))
    shown = network.features(x)
    torch.testing.assert_close(shown.logits, network(x), rtol=0, atol=0)
    torch.testing.assert_close(network.fc(shown.pooled), shown.logits, rtol=0, atol=0)


@family
def test_features_move_running_statistics_once_and_as_forward_does(name):
    shown, plain = make(name), make(name)
    plain.load_state_dict(shown.state_dict())
    x = torch.rand(4, 3, size_of(name), size_of(name))
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
    x = torch.rand(4, 3, size_of(name), size_of(name))
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


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - PREACTIVATION.keys()))
def test_stages_are_activated_preacts(name):
    shown = randomized(make(name)).features(torch.rand(4, 3, size_of(name), size_of(name)))
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
    x = torch.rand(2, 3, size_of(name), size_of(name))
    with torch.no_grad():
        before = network.features(x).preacts
        for i, norm in reversed([*enumerate(network.batchnorm_before_relu())]):
            norm.bias += 1
            torch.testing.assert_close(
                network.features(x).preacts[i], before[i] + 1, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("name", PREACTIVATION)
def test_preactivation_preacts_are_stages_after_the_next_batchnorm(name):
    network = randomized(FAMILIES[name](5, 3, 16))
    shown = network.features(torch.rand(4, 3, 16, 16))
    norms = network.batchnorm_before_relu()
    for stage, preact, norm in zip(shown.stages, shown.preacts, norms, strict=True):
        torch.testing.assert_close(preact, norm(stage), rtol=0, atol=0)
    activated = network.activation(shown.preacts[-1])
    torch.testing.assert_close(shown.pooled, activated.mean(dim=(2, 3)))


@family
def test_networks_can_be_traced(name):
    network, x = randomized(make(name)), torch.rand(2, 3, size_of(name), size_of(name))
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize(
    "name",
    [name if name in RESNETS else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_networks_compile_without_graph_breaks(name):
    network, x = randomized(make(name)), torch.rand(2, 3, size_of(name), size_of(name))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))


def test_silu_variant_has_its_activation_momentum_and_padding():
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
