"""The table of teacher logits equals the teacher's output, whatever happened to its files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilling import Lines, assert_same_weights, student, weights
from torch import Tensor, nn

from harness.data import load_dataset
from harness.data.augment import Augmentation, crop, flip, reflect_crop
from harness.data.loader import DeviceLoader
from harness.errors import UserError
from harness.experiment.logit_table import LogitTable, table_bytes
from harness.experiment.resolve import resolve
from harness.experiment.teacher import (
    TABLES_FOLDER,
    Teacher,
    _Forward,
    _FromTable,
    logits_of,
    table_name,
)
from harness.method import Batch
from harness.models import build_model
from harness.seeding import seeded_generator

CPU = torch.device("cpu")


def random_rows(count: int, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(200, generator=generator)[:count]
    return rows, torch.randn(count, classes, generator=generator)


def table(folder: Path, dtype: str = "float32") -> LogitTable:
    return LogitTable(folder, 200, 7, dtype)


@pytest.mark.parametrize(("padding", "mirror"), [(0, False), (0, True), (1, False), (2, True)])
@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_a_view_number_identifies_the_augmented_image(padding, mirror, mode):
    augment = Augmentation(padding, mirror, mode)
    images = torch.randint(256, (1000, 3, 6, 6), dtype=torch.uint8)
    changed, view = augment.viewed(images, seeded_generator(CPU, "views"))
    assert torch.equal(changed, augment(images, seeded_generator(CPU, "views")))
    assert view is not None
    assert augment.views is not None
    assert set(view.tolist()) == set(range(augment.views)), "1000 draws reach each of the views"
    place, mirrored = (view // 2, (view % 2).bool()) if mirror else (view, None)
    side = 2 * padding + 1
    offsets = torch.stack([place // side, place % side], dim=1)
    shown = (reflect_crop if mode == "reflect" else crop)(images, offsets, padding)
    assert torch.equal(changed, flip(shown, mirrored) if mirrored is not None else shown)


def test_rotated_images_have_no_number_of_views():
    augment = Augmentation(2, True, rotation=10.0)
    assert augment.views is None
    images = torch.zeros(2, 3, 6, 6, dtype=torch.uint8)
    assert augment.viewed(images, seeded_generator(CPU, 0))[1] is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read_by_a_later_process(tmp_path, dtype):
    rows, logits = random_rows(50)
    first = table(tmp_path, dtype)
    assert not first.read(rows)[1].any()
    kept = first.write(rows, logits)
    assert torch.equal(kept, logits.to(getattr(torch, dtype)).float())
    read, there = table(tmp_path, dtype).read(rows)
    assert there.all()
    assert torch.equal(read, kept)
    others = torch.tensor(sorted(set(range(200)) - set(rows.tolist())))
    assert not first.read(others)[1].any()


def test_zero_logits_count_as_written(tmp_path):
    rows = torch.arange(200)
    table(tmp_path).write(rows, torch.zeros(200, 7))
    assert table(tmp_path).read(rows)[1].all()


def test_a_damaged_row_is_missing_and_no_other(tmp_path):
    rows, logits = random_rows(50)
    filled = table(tmp_path)
    filled.write(rows, logits)
    raw = np.memmap(tmp_path / "logits.bin", dtype=np.uint8, mode="r+").reshape(200, -1)
    flipped, swapped, copied = rows[3].item(), rows[4].item(), rows[5].item()
    raw[flipped, 11] ^= 1
    raw[swapped, :8] = np.roll(raw[swapped, :8], 4)
    raw[copied] = raw[rows[6]]
    checksums = np.memmap(tmp_path / "checksums.bin", dtype=np.uint32, mode="r+")
    checksums[copied] = checksums[rows[6]]
    there = filled.read(rows)[1]
    assert (~there).nonzero().flatten().tolist() == [3, 4, 5]
    filled.write(rows[3:6], logits[3:6])
    read, there = filled.read(rows)
    assert there.all()
    assert torch.equal(read, logits)


@pytest.mark.parametrize("name", ["logits.bin", "checksums.bin"])
def test_what_a_truncated_file_lost_is_missing(tmp_path, name):
    rows, logits = random_rows(200)
    table(tmp_path).write(rows, logits)
    size = (tmp_path / name).stat().st_size
    os.truncate(tmp_path / name, size // 2 + 3)
    read, there = table(tmp_path).read(rows)
    assert (tmp_path / name).stat().st_size == size
    assert torch.equal(there, rows < 100)
    assert torch.equal(read[there], logits[there])


def test_a_table_that_the_disk_cannot_hold_is_refused(tmp_path):
    rows = 10**12
    with pytest.raises(UserError, match=r"needs 404000\.0 GB .* teacher\.logits=forward"):
        LogitTable(tmp_path / "huge", rows, 100, "float32")
    assert table_bytes(50_000 * 162, 100, "float32") == 50_000 * 162 * 404
    table(tmp_path / "small")
    with pytest.raises(UserError, match="holds a different table"):
        table(tmp_path / "small", "float16")


FILL = """
import sys
from pathlib import Path
import torch
from harness.experiment.logit_table import LogitTable
table = LogitTable(Path({folder!r}), 200, 7, "float32")
generator = torch.Generator().manual_seed({seed})
for _ in range({rounds}):
    rows = torch.randint(200, (32,), generator=generator)
    table.write(rows, (rows[:, None] * 7 + torch.arange(7)).float().sin())
sys.exit(0)
"""


def test_two_processes_fill_one_table_and_a_killed_one_leaves_it_usable(server, tmp_path):
    def filling(seed: int, rounds: int, **kill: int) -> dict[str, Any]:
        script = FILL.format(folder=str(tmp_path), seed=seed, rounds=rounds)
        return {"arguments": [], "prepare": script, **kill}

    # The last one is killed when the others are done.
    ended = server.run_all(filling(1, 300), filling(2, 300), filling(3, 10**9, delay=0))
    assert [each["code"] for each in ended] == [0, 0, -9]
    rows = torch.arange(200)
    read, there = table(tmp_path).read(rows)
    # The killed process may have left one batch half written; rows that count as valid are correct.
    assert there.sum() >= 200 - 32
    expected = (rows[:, None] * 7 + torch.arange(7)).float().sin()
    assert torch.equal(read[there], expected[there])


class Counting(nn.Module):
    """Counts the images that a network sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.network(x)


def epochs_of(loader: DeviceLoader, count: int) -> Iterator[Batch]:
    for epoch in range(1, count + 1):
        yield from loader.epoch(0, epoch)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logits_from_the_table_are_the_teachers(tmp_path, dtype):
    split = load_dataset("digits").train.subset(75)
    loader = DeviceLoader(split, 32, CPU, Augmentation(1, flip=True))
    assert loader.views == 18
    network = Counting(build_model("resnet8", 10, 1, 8).eval())
    filled = LogitTable(tmp_path, 75 * 18, 10, dtype)
    from_table, forward = _FromTable(network, filled), _Forward(network, half=dtype == "float16")
    for batch in epochs_of(loader, 3):
        found = from_table(batch)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        # On a CPU, the logits of an image are the same in any batch, to the last bit.
        assert torch.equal(found, forward(batch))
    network.images = 0
    for batch in epochs_of(loader, 3):
        from_table(batch)
    assert network.images == 0, "a warm table needs no teacher"


def test_logits_do_not_depend_on_the_number_of_images():
    network = build_model("resnet20", 10, 3, 32).eval()
    x = torch.rand(40, 3, 32, 32)
    whole = logits_of(network, x)
    for count in (1, 3, 15, 17):
        assert torch.equal(logits_of(network, x[:count]), whole[:count])


@pytest.mark.usefixtures("_registered")
def test_a_student_is_the_same_with_a_table_without_and_after_a_kill(tmp_path):
    whole = student(tmp_path / "whole", lines := Lines(), **{"teacher.logits": "table"})
    assert lines.about("teacher logits are kept in")
    forward = student(tmp_path / "forward", **{"teacher.logits": "forward"})
    with pytest.raises(KeyboardInterrupt):
        student(tmp_path / "halted", Lines("epoch 1/2  loss", after="logits are kept"))
    resumed = student(tmp_path / "halted")
    assert_same_weights(whole, forward)
    assert_same_weights(whole, resumed)
    half = student(tmp_path / "whole", **{"teacher.logits_dtype": "float16"})
    assert half.run_id != whole.run_id
    assert any(not torch.equal(a, weights(whole)[name]) for name, a in weights(half).items())


@pytest.mark.usefixtures("_registered")
def test_students_of_two_teachers_read_their_own_teachers_logits(tmp_path):
    """The tables of both are in one results folder, and have equal sizes."""
    other = {"teacher.seed": 1}
    student(tmp_path / "both", **{"teacher.logits": "table"})
    second = student(tmp_path / "both", **{"teacher.logits": "table"}, **other)
    alone = student(tmp_path / "alone", **{"teacher.logits": "forward"}, **other)
    assert_same_weights(second, alone)
    assert len(list((tmp_path / "both" / TABLES_FOLDER).iterdir())) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"data.crop_mode": "reflect"},
        {"data.crop_padding": 2},
        {"data.flip": True},
        {"teacher.logits_dtype": "float16"},
        {"data.train_limit": 50},
    ],
)
@pytest.mark.usefixtures("_registered")
def test_a_table_has_another_name_wherever_its_logits_differ(changes):
    def name(**changes: Any) -> str:
        config = resolve("distil", options=changes)
        data = load_dataset("digits", train_limit=config.data.train_limit)
        return table_name(config, Teacher(nn.Identity(), "a" * 64, "b" * 64, {}), data.train)

    assert name() == name()
    assert name(**changes) != name()


@pytest.mark.usefixtures("_registered")
def test_without_a_finite_number_of_views_there_is_no_table(tmp_path):
    with pytest.raises(UserError, match="have unlimited views"):
        student(tmp_path, **{"teacher.logits": "table", "data.rotation": 5.0})
    lines = Lines()
    student(tmp_path, lines, **{"data.rotation": 5.0})
    assert not lines.about("teacher logits")
