"""Reading weights: planted faults, files that would run code, names, hashes."""

import argparse
import gzip
import io
import os
import pickle
import sys
import zipfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import UserError
from harness.models.checkpoint import read_checkpoint, state_dict_sha256, weights_only
from tests.harness.models.networks import tiny_resnet as network


class Touch:
    """Unpickling this by ordinary means creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


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


def test_a_changed_byte_in_the_list_of_files(tmp_path):
    """``zipfile`` then raises errors of many types."""
    path, messages = tmp_path / "bad.pt", []
    torch.save({"a": torch.ones(4)}, path)
    content = path.read_bytes()
    for position in range(len(content) - 250, len(content)):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("bad.pt is damaged or not a checkpoint" in message for message in messages)


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
    with pytest.raises(UserError, match=r"evil\.pt holds a Python object"):
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


@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"])
@pytest.mark.parametrize("module", [b"pathlib", b"pathlib._local"])
def test_paths_are_read_whatever_python_and_system_wrote_them(tmp_path, module, name):
    path = tmp_path / "paths.pt"
    saved = io.BytesIO()
    item = PurePosixPath("runs/1")
    torch.save({"item": item}, saved, _use_new_zipfile_serialization=False)
    before = f"c{type(item).__module__}\n{type(item).__name__}\n".encode()
    assert saved.getvalue().count(before) == 1
    path.write_bytes(saved.getvalue().replace(before, b"c%s\n%s\n" % (module, name.encode())))
    assert read_checkpoint(path)["item"].parts == ("runs", "1")


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
