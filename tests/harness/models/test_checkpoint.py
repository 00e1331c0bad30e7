"""Reading weights: planted faults, files that would run code, names, hashes."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models.checkpoint import (
    adapt_names,
    find_state,
    load_weights,
    read_checkpoint,
    state_dict_sha256,
    weights_only,
)
from harness.models.resnet import ResNet


class Touch:
    """Unpickling this by ordinary means creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def network(num_classes=4):
    return ResNet(num_classes, blocks=(1, 1, 1), channels=(4, 4, 8, 8))


@pytest.mark.parametrize("name", ["absent.pt", "."])
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
    ("item", "name"),
    [(argparse.Namespace(lr=0.1), "argparse.Namespace"), (np.float64(0.5), "scalar")],
)
def test_python_objects_are_named(tmp_path, item, name):
    path = tmp_path / "objects.pt"
    torch.save({"state_dict": {}, "item": item}, path)
    with pytest.raises(UserError, match=rf"Python object, .*{name}.*save the state dict alone"):
        read_checkpoint(path)


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
        find_state(content, "x.pt")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model."])
def test_prefixes_of_wrappers_are_stripped(prefix):
    source, target = network(), network()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    load_weights(target, state, "x.pt")
    assert state_dict_sha256(target) == state_dict_sha256(source)


def test_a_networks_own_name_is_not_taken_for_a_prefix():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    outer = Outer()
    state = {f"module.{name}": tensor for name, tensor in outer.state_dict().items()}
    assert adapt_names(outer.state_dict(), outer).keys() == outer.state_dict().keys()
    assert set(adapt_names(state, outer)) == {"model.weight", "model.bias"}


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
