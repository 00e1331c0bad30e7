"""Damaged and unusual checkpoints: the same weights, a model that answers, or one sentence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import JUNK, damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from harness.data import dataset_info
from harness.models import build_model
from harness.models.checkpoint import MODEL_FORMAT, state_dict_sha256
from harness.models.loading import load_external

pytestmark = pytest.mark.fuzz

DIGITS = dataset_info("digits")
torch.manual_seed(0)
NETWORK = build_model("resnet8", 10, 1, 8)
STATE = NETWORK.state_dict()
SHA256 = state_dict_sha256(NETWORK)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# A run's own model file, and a published one.
OWN = {
    "format": MODEL_FORMAT,
    "arch": "resnet8",
    "num_classes": 10,
    "in_channels": 1,
    "image_size": 8,
    "normalize": None,
    "dataset": "digits",
    "method": "kl",
    "epoch": 1,
    "state_dict": STATE,
}
FILES = {None: saved(OWN), "resnet8": saved(STATE)}


def check(path: Path, tally: Any, arch: str | None, *, same: bool) -> None:
    kind, found = outcome(lambda: load_external(str(path), dataset_info=DIGITS, arch=arch))
    tally["checkpoints"][kind] += 1
    if kind == "read":
        model, facts = found
        with torch.no_grad():
            assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
        assert facts["sha256"]
        assert not same or state_dict_sha256(model) == SHA256


@given(
    st.sampled_from(list(FILES)).flatmap(
        lambda arch: st.tuples(st.just(arch), damaged(FILES[arch]))
    )
)
@tries(300)
def test_damaged_bytes(tmp_path_factory, tally, case) -> None:
    arch, content = case
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(content)
    check(path, tally, arch, same=True)


NAMES = st.sampled_from((*sorted(STATE), "", "x", "module.conv", "0"))
TENSORS = st.sampled_from(
    (torch.zeros(()), torch.zeros(0), torch.full((10,), torch.nan), torch.zeros(10).half(),
     torch.zeros(10, dtype=torch.int8), torch.zeros(10, dtype=torch.bool),
     torch.zeros(3, dtype=torch.complex64), torch.zeros(2, 2).to_sparse())
)  # fmt: skip
FACTS = st.sampled_from(sorted(OWN))


@given(
    st.dictionaries(NAMES, st.one_of(TENSORS, JUNK), max_size=3),
    st.sets(NAMES, max_size=2),
    st.sampled_from(("", "state_dict", "model", "net", "ema", "module.", "model.", "backbone.")),
)
@tries(500)
def test_other_entries(tmp_path_factory, tally, changes, dropped, wrapper) -> None:
    state: Any = {name: value for name, value in STATE.items() if name not in dropped} | changes
    if wrapper.endswith("."):
        state = {f"{wrapper}{name}": value for name, value in state.items()}
    elif wrapper:
        state = {wrapper: state, "epoch": 3}
    path = tmp_path_factory.getbasetemp() / "entries.pt"
    path.write_bytes(saved(state))
    check(path, tally, "resnet8", same=False)


@given(st.dictionaries(FACTS, JUNK, min_size=1, max_size=3), st.sets(FACTS, max_size=2))
@tries(400)
def test_other_facts(tmp_path_factory, tally, changes, dropped) -> None:
    path = tmp_path_factory.getbasetemp() / "facts.pt"
    kept = {name: value for name, value in OWN.items() if name not in dropped} | changes
    path.write_bytes(saved(kept))
    check(path, tally, None, same=False)


@given(st.recursive(JUNK, lambda part: st.lists(part) | st.dictionaries(st.text(), part)))
@tries(200)
def test_other_objects(tmp_path_factory, tally, content) -> None:
    path = tmp_path_factory.getbasetemp() / "object.pt"
    path.write_bytes(saved(content))
    check(path, tally, "resnet8", same=False)
