"""The choice of a device."""

import pytest
import torch

from harness.errors import UserError
from harness.training.build import choose_device


def test_a_numbered_gpu_becomes_the_current_one(monkeypatch):
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)]
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="torch finds 2 GPUs, numbered from 0"):
        choose_device("cuda:2")
    assert len(current) == 1


def test_a_device_that_is_not_there_is_the_users_mistake(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch finds no GPU; use --device cpu"):
        choose_device("cuda")
    for name in ("gpu", "mps", "meta", "cpu:1", "cuda:x", ""):
        with pytest.raises(UserError, match=f"unknown device '{name}': use auto, cpu"):
            choose_device(name)
