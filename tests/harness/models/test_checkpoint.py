"""Reading weights: planted faults, files that would run code, names, hashes."""

import argparse
import gzip
import os
import pickle
import sys
import zipfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models import build_model
from harness.models.checkpoint import read_checkpoint, state_dict_sha256, weights_only
from harness.models.external.unwrap import load_weights
from harness.models.normalize import Normalized
from harness.models.resnet import ResNet


class Touch:
    """Unpickling this by ordinary means creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def network(num_classes=4):
    return ResNet(num_classes, blocks=(1, 1, 1), channels=(4, 4, 8, 8))


@pytest.mark.parametrize("name", ["absent.pt", ".", "a" * 300, "a\0b"])
def test_missing_file(tmp_path, name):
    with pytest.raises(UserError, match=r"no checkpoint file at .*: check the path"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("start", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n "])
def test_web_page(tmp_path, start):
    path = tmp_path / "page.pt"
    path.write_bytes(start + b"<!DOCTYPE html><html>Google Drive</html>")
    with pytest.raises(UserError, match=r"page\.pt is a web page, not a checkpoint .* browser"):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(tmp_path, keep, zipped):
    path = tmp_path / "cut.pt"
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=r"cut\.pt is damaged or not a checkpoint .* download"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello world " * 50, bytes(range(256)) * 20, b"PK\x03\x04no"])
def test_file_of_something_else(tmp_path, content):
    path = tmp_path / "junk.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, how):
    path, trace = tmp_path / "evil.pt", tmp_path / "was-run"
    content = {"state_dict": network().state_dict(), "extra": Touch(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(UserError, match=r"evil\.pt (holds a Python object|is damaged)"):
        read_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists(), "the planted code must be able to run"


@pytest.mark.parametrize(
    "item",
    [
        argparse.Namespace(lr=0.1, out=Path("runs")),
        SimpleNamespace(epochs=3),
        np.float64(0.5),
        np.int64(3),
        np.arange(3),
        np.array([None, "a"], dtype=object),
        defaultdict(list, {"loss": [0.1]}),
        datetime(2024, 5, 1),
    ],
    ids=lambda item: type(item).__name__,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_data_beside_weights_is_read(tmp_path, item, zipped):
    path = tmp_path / "objects.pt"
    content = {"state_dict": {"w": torch.ones(2)}, "item": item}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)["item"]
    if isinstance(item, argparse.Namespace):
        assert (found.lr, str(found.out)) == (0.1, "runs")
    else:
        assert found == item if isinstance(item, dict) else repr(found) == repr(item)


class Settings:
    """A class of one's own."""


def test_python_objects_are_named(tmp_path):
    path = tmp_path / "objects.pt"
    torch.save({"state_dict": {}, "item": Settings()}, path)
    with pytest.raises(UserError, match=r"Python object, .*Settings.*save the state dict alone"):
        read_checkpoint(path)


def test_a_safetensors_file_is_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"w": torch.arange(3.0)}, tmp_path / "model.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "model.safetensors")["w"], torch.arange(3.0))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"needs the package safetensors.torch.*\[export\]'$"):
        read_checkpoint(tmp_path / "model.safetensors")


def write_zip(path, name):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"content")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.onnx", lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "is an ONNX graph"),
        ("a.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file"),
        ("a.pt.gz", lambda path: path.write_bytes(gzip.compress(b"a")), "compressed with gzip"),
        ("a.npz", lambda path: np.savez(path, w=np.ones(2)), "is a NumPy archive"),
        ("a.pt", lambda path: path.write_bytes(b"version https://git-lfs.github.com"), "Git LFS"),
        ("b.pt", lambda path: write_zip(path, "net/constants.pkl"), "is a TorchScript archive"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_named(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / name)


def test_a_loop_of_links_is_no_file(tmp_path):
    (tmp_path / "a.pt").symlink_to(tmp_path / "b.pt")
    (tmp_path / "b.pt").symlink_to(tmp_path / "a.pt")
    with pytest.raises(UserError, match="no checkpoint file"):
        read_checkpoint(tmp_path / "a.pt")


def test_other_libraries_are_kept_from_running_code(tmp_path, monkeypatch):
    path, trace = tmp_path / "evil.pt", tmp_path / "was-run"
    torch.save(Touch(trace), path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = dict(os.environ)
    with weights_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not trace.exists()
    assert dict(os.environ) == before


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
    state = network().state_dict()
    kept = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    load_weights(network(), kept, "x.pt")


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


def test_hash_of_a_state_depends_on_content_alone():
    class Reordered(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.register_buffer(name, torch.arange(6.0).reshape(2, 3))

    first, second = Reordered(["a", "b"]), Reordered(["b", "a"])
    assert state_dict_sha256(first) == state_dict_sha256(second)
    second.a = torch.arange(6.0).reshape(3, 2).t().contiguous().t().reshape(2, 3)
    assert state_dict_sha256(first) == state_dict_sha256(second)
    second.a = torch.arange(6.0).reshape(3, 2)
    assert state_dict_sha256(first) != state_dict_sha256(second)
    second.a = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    assert state_dict_sha256(first) != state_dict_sha256(second)


def test_hash_of_a_state_ignores_memory_layout_and_takes_every_dtype():
    plain = network()
    last = network().to(memory_format=torch.channels_last)
    last.load_state_dict(plain.state_dict())
    assert state_dict_sha256(plain) == state_dict_sha256(last)
    before = state_dict_sha256(plain)
    with torch.no_grad():
        plain.fc.bias[0] += 1e-6
    assert state_dict_sha256(plain) != before
    assert state_dict_sha256(plain.to(torch.bfloat16)) != before
