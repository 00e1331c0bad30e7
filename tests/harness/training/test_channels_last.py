"""The memory layout of a training step's images and weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data.base import DatasetInfo, ImageSet
from harness.data.loader import make_loader
from harness.method import TaskContext
from harness.models import build_model
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.loop import Trainer
from harness.training.schedules import inner_schedule

CPU = torch.device("cpu")
# With a single channel both layouts would be the same.
INFO = DatasetInfo(
    name="colour", num_classes=3, channels=3, image_size=8, class_names=("a", "b", "c"),
    mean=(0.5,) * 3, std=(0.25,) * 3, default_eps=0.1, max_train_size=6, max_test_size=6,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "layout"),
    [({}, torch.contiguous_format), ({"channels_last": True}, torch.channels_last)],
)
def test_images_and_weights_of_a_step_have_the_configured_layout(
    options: dict[str, Any], layout: torch.memory_format, tmp_path: Path
) -> None:
    config = RunConfig.model_validate(
        {"method": "pgd-at", "training": {"epochs": 1, "attack": {"steps": 2}, **options}}
    )
    method = METHODS.get("pgd-at")
    context = TaskContext(3, 1, CPU, in_channels=3, image_size=8)
    split = ImageSet(
        torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.arange(6) % 3, INFO, "train"
    )
    loader, model = make_loader(split, 6, CPU), build_model("resnet8", 3, 3, 8)
    trainer = Trainer(
        config, method.task(method.params(), context), model, loader, watched=split,
        run=RunDirectory.create(tmp_path, "some"), device=CPU,
    )  # fmt: skip
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    seen: list[tuple[bool, Tensor, Tensor]] = []
    first.register_forward_pre_hook(
        lambda layer, inputs: seen.append((layer.training, inputs[0], layer.weight))
    )
    attack = config.training.attack
    assert attack is not None
    (batch,) = loader.epoch(0, 1)
    trainer.step(batch, inner_schedule(attack, 1, 1), torch.Generator().manual_seed(0))
    # The attack's passes are in eval mode.
    assert {training for training, *_ in seen} == {False, True}
    (other,) = {torch.contiguous_format, torch.channels_last} - {layout}
    for _, *tensors in seen:
        for tensor in tensors:
            assert tensor.is_contiguous(memory_format=layout)
            assert not tensor.is_contiguous(memory_format=other)
