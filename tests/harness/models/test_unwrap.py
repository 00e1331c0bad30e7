"""Finding a network's weights in what wraps them."""

import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models import build_model
from harness.models.checkpoint import state_dict_sha256
from harness.models.external.unwrap import load_weights
from harness.models.normalize import Normalized
from tests.harness.models.networks import randomized
from tests.harness.models.networks import tiny_resnet as network


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, torch.zeros(2), [1], {"state_dict": {}}])
def test_no_state(content):
    with pytest.raises(UserError, match=r"x\.pt holds no state dict"):
        load_weights(network(), content, "x.pt")


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def scaled(state, factor):
    return {name: tensor * factor for name, tensor in state.items()}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda state: state, ""),
        (lambda state: {"net": state, "acc": 94.1, "epoch": 200}, "net"),
        (lambda state: {"model_state_dict": state, "optimizer": OPTIMIZER}, "model_state_dict"),
        (lambda state: {"state_dict": [state], "acc": torch.tensor(0.9)}, "state_dict.0"),
        (lambda state: [state, 0.9], "0"),
        (lambda state: {"a": {"b": {"weights": state}}, "seed": torch.zeros(1)}, "a.b.weights"),
        (lambda state: {"model": state, "ema": dict(state)}, "model"),
        (lambda state: {"model": prefixed(state, "module."), "teacher": {"w": state["fc.bias"]}},
         "model"),
        *((lambda state, prefix=prefix: prefixed(state, prefix), "") for prefix in (
            "module.", "model.", "_orig_mod.", "module.model.", "module.0.", "1.", "basic_net.",
            "module.basic_net._orig_mod.", "backbone.network.")),
        (lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(3)}, ""),
        (lambda state: {**prefixed(state, "module.model."),
                        **prefixed(state, "module.attacker.model.")}, ""),
        (lambda state: {"state_dict": {n: t.half() for n, t in state.items()}}, "state_dict"),
    ],
)  # fmt: skip
def test_weights_are_found_in_what_wraps_them(wrap, key):
    source, target = network(), network()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(parameter.half())
    taken = load_weights(target, wrap(source.state_dict()), "x.pt")
    assert state_dict_sha256(target) == state_dict_sha256(source)
    assert taken.statistics is None
    assert taken.notes == ((f"the weights are those under {key!r} in x.pt",) if key else ())


@pytest.mark.parametrize(
    ("wrap", "listed", "key"),
    [
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "'state_dict', 'state_dict_ema'",
         "state_dict_ema"),
        (lambda a, b: {"model": prefixed(a, "module."), "ema": b}, "'model', 'ema'", "ema"),
        (lambda a, b: {**prefixed(a, "student."), **prefixed(b, "teacher.")},
         "'student', 'teacher'", "teacher"),
        (lambda a, b: {"nets": [a, b]}, "'nets.0', 'nets.1'", "nets.1"),
        (lambda a, b: {**a, **prefixed(b, "module.")}, "no key, 'module'", "module"),
    ],
)  # fmt: skip
def test_of_several_weights_the_user_must_choose(wrap, listed, key):
    first, second, target = network(), network(), network()
    content = wrap(first.state_dict(), second.state_dict())
    with pytest.raises(UserError, match=rf"several different weights .*{listed}: .*--weights-key"):
        load_weights(target, content, "x.pt")
    load_weights(target, content, "x.pt", key)
    assert state_dict_sha256(target) == state_dict_sha256(second)
    with pytest.raises(UserError, match=f"no weights of this network under 'ma': .*{listed}"):
        load_weights(target, content, "x.pt", "ma")


def test_one_entry_too_many_is_unexpected():
    state = network().state_dict()
    with pytest.raises(UserError, match=r"unexpected module\.conv1\.weight"):
        load_weights(network(), {**state, "module.conv1.weight": -state["conv1.weight"]}, "x.pt")


@pytest.mark.parametrize(
    ("mean", "std", "prefix"),
    [
        ("mean", "std", ""),
        ("module.normalizer.new_mean", "module.normalizer.new_std", "module.model."),
        ("0.mu", "0.sigma", "1."),
    ],
)
def test_statistics_beside_the_weights_are_taken(mean, std, prefix):
    state = prefixed(network().state_dict(), prefix)
    values = torch.tensor([0.5, 0.25, 0.75]).view(1, 3, 1, 1)
    taken = load_weights(network(), {**state, mean: values, std: values / 2}, "x.pt")
    assert taken.statistics == ([0.5, 0.25, 0.75], [0.25, 0.125, 0.375])


@pytest.mark.parametrize("own_statistics", [True, False])
def test_weights_fit_the_network_inside_one_that_normalises(own_statistics):
    source, target = network(), Normalized(network(), (0.5,) * 3, (0.25,) * 3)
    state = prefixed(source.state_dict(), "model.module." if own_statistics else "")
    if own_statistics:
        state |= {"mean": torch.full((1, 3, 1, 1), 0.1), "std": torch.full((1, 3, 1, 1), 0.2)}
    load_weights(target, state, "x.pt")
    assert state_dict_sha256(target.model) == state_dict_sha256(source)
    assert target.mean.flatten().tolist() == pytest.approx([0.1 if own_statistics else 0.5] * 3)


def test_dead_parameters_of_published_networks_are_left_out():
    source, target = (build_model("wrn-16-1", 4, 3, 8) for _ in range(2))
    dead = {f"module.sub_block1.layer.{n}.weight": torch.rand(2) for n in range(4)}
    state = prefixed(source.state_dict(), "module.") | dead
    (note,) = load_weights(target, state, "x.pt").notes
    assert "does not use were left out: module.sub_block1.layer.0.weight" in note
    assert state_dict_sha256(target) == state_dict_sha256(source)
    with pytest.raises(UserError, match=r"unexpected module\.sub_block1"):
        load_weights(network(), prefixed(network().state_dict(), "module.") | dead, "x.pt")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tensor: (tensor * 100).to(torch.int8), "int8"),
        (lambda tensor: tensor.long(), "int64"),
        (lambda tensor: tensor.to(torch.complex64), "complex64"),
        (lambda tensor: tensor.to_sparse(), "sparse"),
        (lambda tensor: tensor.to("meta"), "meta device"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "qint8"),
        (lambda tensor: tensor * torch.nan, "holds NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var"])
def test_what_are_no_float_weights_is_refused(name, change, kind):
    state = network().state_dict()
    state[name] = change(state[name])
    with pytest.raises(UserError, match=rf"{name} in x\.pt .*{kind}"):
        load_weights(network(), state, "x.pt")


def test_floats_are_not_cut_to_whole_numbers():
    class Indexed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("index", torch.arange(3))

    state = Indexed().state_dict()
    load_weights(Indexed(), state | {"index": state["index"].int()}, "x.pt")
    with pytest.raises(UserError, match=r"index in x\.pt is float32"):
        load_weights(Indexed(), state | {"index": state["index"] + 0.5}, "x.pt")


def test_a_networks_own_name_is_not_taken_for_a_prefix():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    source = Outer()
    for prefix in ("", "module."):
        target = Outer()
        load_weights(target, prefixed(source.state_dict(), prefix), "x.pt")
        assert state_dict_sha256(target) == state_dict_sha256(source)


def test_files_of_early_pytorch_have_no_counters():
    source, target = randomized(network()), network()
    state = source.state_dict()
    kept = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    assert len(kept) < len(state)
    load_weights(target, kept, "x.pt")
    assert state_dict_sha256(target) == state_dict_sha256(source)


def test_differences_are_named_and_nothing_is_loaded():
    target = network()
    before = state_dict_sha256(target)
    state = network().state_dict()
    del state["stages.0.0.conv1.weight"]
    state["stages.9.weight"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(7)
    with pytest.raises(UserError) as caught:
        load_weights(target, state, "x.pt")
    message = str(caught.value)
    assert "missing stages.0.0.conv1.weight" in message
    assert "unexpected stages.9.weight" in message
    assert "differently shaped fc.bias [7] instead of [4]" in message
    assert "\n" not in message
    assert state_dict_sha256(target) == before


def test_only_the_first_differences_are_named():
    first = r"missing conv1\.weight, bn1\.weight, bn1\.bias and \d\d more; unexpected other"
    with pytest.raises(UserError, match=first):
        load_weights(network(), {"other": torch.zeros(1)}, "x.pt")
