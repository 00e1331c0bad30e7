"""Mixed batches: how many of each kind, which, how often; and files of any size."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config import DataConfig
from harness.data.augment import Augmentation
from harness.data.base import DatasetInfo, ImageSet
from harness.data.generated import (
    MixedLoader,
    check_same_file,
    open_generated,
    originals_per_batch,
    steps_with_generated,
)
from harness.data.npz import open_npz
from harness.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def archive(tmp_path):
    """Fifty generated images whose first pixel is their row, distinct from all originals."""
    images = np.zeros((50, 6, 6, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(50)
    images[:, 1] = 255
    np.savez(tmp_path / "g.npz", image=images, label=np.arange(50, dtype=np.uint8) % 3)
    return tmp_path / "g.npz"


def mixed(image_set, archive, info, **changes):
    settings = {"fraction": 0.7, "steps": 4, "augment": Augmentation()} | changes
    return MixedLoader(image_set, open_npz(archive, info), 10, CPU, **settings)


def test_a_batch_holds_its_share_of_both_with_their_labels(image_set, archive, info):
    batches = list(mixed(image_set, archive, info).epoch(0, 1))
    assert len(batches) == 4
    for batch in batches:
        assert batch.x.shape == (10, 3, 6, 6)
        assert batch.index.tolist()[3:] == [-1] * 7
        assert torch.equal(batch.x[:3], image_set.images_float(batch.index[:3]))
        assert torch.equal(batch.y[:3], image_set.labels[batch.index[:3]])
        rows = (batch.x[3:, 0, 0, 0] * 255).round().long()
        assert torch.equal(batch.y[3:], rows % 3)
        assert (batch.x[3:, :, 1] == 1).all()
    originals = torch.cat([batch.index[:3] for batch in batches])
    assert len(originals.unique()) == 12


def test_originals_run_through_an_order_of_all_before_any_comes_again(image_set, archive, info):
    loader = mixed(image_set, archive, info, fraction=0.5, steps=8)
    rows = torch.cat([batch.index[:5] for batch in loader.epoch(3, 1)])
    assert rows[:20].sort().values.tolist() == list(range(20))
    assert rows[20:].sort().values.tolist() == list(range(20))
    assert rows[:20].tolist() != rows[20:].tolist()


def test_generated_rows_are_uniform(image_set, archive, info):
    loader = mixed(image_set, archive, info, steps=2000)
    counts = torch.zeros(50)
    for batch in loader.epoch(0, 1):
        rows = (batch.x[3:, 0, 0, 0] * 255).round().long()
        counts += torch.bincount(rows, minlength=50)
    assert ((counts - 280) ** 2 / 280).sum() < 85.4  # the 0.1 percent point at 49 degrees


def test_an_epoch_depends_on_seed_and_number_alone(image_set, archive, info):
    augment = Augmentation(2, True, "reflect", 15.0)

    def epoch(loader, seed, number):
        return torch.cat([batch.x for batch in loader.epoch(seed, number)])

    loader = mixed(image_set, archive, info, augment=augment)
    epoch(loader, 0, 1)
    again = mixed(image_set, archive, info, augment=augment)
    assert torch.equal(epoch(loader, 0, 2), epoch(again, 0, 2))
    assert not torch.equal(epoch(loader, 0, 3), epoch(again, 0, 2))
    assert not torch.equal(epoch(loader, 1, 2), epoch(again, 0, 2))


def test_generated_images_may_be_left_as_they_are(image_set, archive, info):
    augment = Augmentation(2, True)
    both = next(mixed(image_set, archive, info, augment=augment).epoch(0, 1))
    one = next(
        mixed(image_set, archive, info, augment=augment, augment_generated=False).epoch(0, 1)
    )
    assert (one.x[3:, :, 1] == 1).all()
    assert not (both.x[3:, :, 1] == 1).all()
    assert not torch.equal(one.x[:3], image_set.images_float(one.index[:3]))


def test_an_abandoned_epoch_and_a_failing_read_end(image_set, archive, info):
    loader = mixed(image_set, archive, info)
    batches = loader.epoch(0, 1)
    next(batches)
    batches.close()
    loader.generated.gather = lambda rows: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(loader.epoch(0, 1))


@pytest.mark.parametrize(
    ("config", "batch", "originals", "steps"),
    [
        (DataConfig(generated_fraction=0.7), 512, 154, 98),
        (DataConfig(generated_fraction=0.7), 2048, 614, 25),
        (DataConfig(generated_fraction=0.5, generated_epoch="originals"), 256, 128, 391),
    ],
)
def test_released_counts(config, batch, originals, steps):
    assert originals_per_batch(batch, config.generated_fraction) == originals
    assert steps_with_generated(config, batch, 50_000) == steps


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_batch_without_one_kind_is_refused(fraction):
    with pytest.raises(UserError, match=r"some of both kinds"):
        originals_per_batch(10, fraction)


def test_a_missing_file_or_setting_is_named(archive, info):
    needed = DataConfig(generated_fraction=0.7, generated_name="edm-1m", generated_source="them")
    with pytest.raises(UserError) as caught:
        open_generated(needed, info)
    for part in (
        "(edm-1m)", "--generated FILE", "uncompressed npz", "uint8 [N, 6, 6, 3]",
        "published by them",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert open_generated(DataConfig(), info) is None
    with pytest.raises(UserError, match=r"given but not used: set data.generated_fraction"):
        open_generated(DataConfig(generated=archive), info)
    with pytest.raises(UserError, match=r"=ddpm-1m is given but not used: .*_name=null"):
        open_generated(DataConfig(generated_name="ddpm-1m"), info)
    with pytest.raises(UserError, match=r"have no name: set data.generated_name"):
        open_generated(DataConfig(generated=archive, generated_fraction=0.5), info)
    found = open_generated(needed.model_copy(update={"generated": archive}), info)
    assert found is not None
    assert len(found) == 50


@pytest.mark.parametrize("change", ["nothing", "a label", "an image", "count", "label type"])
def test_the_fingerprint_tells_files_apart(tmp_path, info, change):
    images, labels = np.zeros((60, 6, 6, 3), np.uint8), np.zeros(60, np.int64)
    np.savez(tmp_path / "a.npz", image=images, label=labels)
    before = open_npz(tmp_path / "a.npz", info).fingerprint()
    images, labels = images.copy(), labels.copy()
    if change == "a label":
        labels[31] = 1
    elif change == "an image":
        images[31, 3, 3, 1] = 1
    elif change == "count":
        images, labels = images[1:], labels[1:]
    elif change == "label type":
        labels = labels.astype(np.uint8)
    np.savez(tmp_path / "b.npz", image=images, label=labels)
    after = open_npz(tmp_path / "b.npz", info).fingerprint()
    if change == "nothing":
        assert after == before
        check_same_file(before, after, "b.npz")
    else:
        assert after["sha256"] != before["sha256"]
        with pytest.raises(UserError, match=r"b.npz is not the file .*sha256"):
            check_same_file(before, after, "b.npz")
    check_same_file(None, after, "b.npz")


def write_sparse(path: Path, count: int, size: int) -> None:
    """An archive of ``count`` black images whose pixels and labels take no room on the disk."""
    with zipfile.ZipFile(path, "w") as archive, path.open("r+b") as file:
        for name, dtype, shape in (
            ("image", np.dtype(np.uint8), (count, size, size, 3)),
            ("label", np.dtype(np.int64), (count,)),
        ):
            header = io.BytesIO()
            described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, described)
            member = zipfile.ZipInfo(f"{name}.npy")
            data = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            member.CRC = 0
            member.file_size = member.compress_size = len(header.getvalue()) + data
            member.header_offset = file.seek(0, 2)
            file.write(member.FileHeader(zip64=True) + header.getvalue())
            file.truncate(file.tell() + data)
            archive.filelist.append(member)
            archive.NameToInfo[member.filename] = member
            archive.start_dir = file.seek(0, 2)
            archive._didModify = True


def private_memory_mb() -> float:
    """Memory of this process that is not the system's copy of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounts")
def test_fifty_million_images_need_no_more_memory_than_a_few(tmp_path):
    info = DatasetInfo(
        "large", 10, 3, 32, (), (0.5,) * 3, (0.25,) * 3, 0.03, max_train_size=200, max_test_size=1
    )
    path, count = tmp_path / "50m.npz", 50_000_000
    write_sparse(path, count, 32)
    assert path.stat().st_size > 153e9
    assert path.stat().st_blocks * 512 < 1e6
    originals = ImageSet(
        torch.full((200, 3, 32, 32), 255, dtype=torch.uint8),
        torch.ones(200, dtype=torch.int64),
        info,
        "train",
    )
    before = private_memory_mb()
    generated = open_npz(path, info)
    assert len(generated) == count
    assert generated.fingerprint()["images"] == count
    loader = MixedLoader(
        originals, generated, 512, CPU, fraction=0.7, steps=20, augment=Augmentation(4, True)
    )
    for batch in loader.epoch(0, 1):
        assert batch.y.tolist() == [1] * 154 + [0] * 358
        assert not batch.x[154:].any()
    # The labels alone would be 400 MB, a copy of the images 153 GB.
    assert private_memory_mb() - before < 150
