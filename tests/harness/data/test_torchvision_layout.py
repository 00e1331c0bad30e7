"""torchvision's own folders, written here byte by byte and read by torchvision."""

import hashlib
import pickle
import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat

from harness.compat import import_torchvision
from harness.data import load_dataset
from harness.errors import UserError

# The folders that torchvision makes before a download.
FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "fashion-mnist": "FashionMNIST/raw",
    "svhn": "svhn",
}


@pytest.fixture
def datasets():
    import_torchvision()
    import torchvision.datasets

    return torchvision.datasets


def write_pickle(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


@pytest.fixture
def cifar(tmp_path, monkeypatch, datasets):
    """Write CIFAR's pickles of random rows [n, 3072] into ``tmp_path`` under torchvision's names.

    torchvision compares checksums with the real files', so they are replaced by these files'.
    """

    def write(class_name, folder, parts, label_key, names_key, label):
        rng = np.random.default_rng(0)
        source = getattr(datasets, class_name)
        written = {}
        for split, files in parts.items():
            rows = [rng.integers(0, 256, (2, 3072), dtype=np.uint8) for _ in files]
            listed = [
                write_pickle(tmp_path / folder / name, {"data": row, label_key: [0, label]})
                for name, row in zip(files, rows, strict=True)
            ]
            monkeypatch.setattr(source, f"{split}_list", listed)
            written[split] = torch.from_numpy(np.concatenate(rows).reshape(-1, 3, 32, 32))
        meta = source.meta["filename"]
        _, digest = write_pickle(tmp_path / folder / meta, {names_key: [str(i) for i in range(99)]})
        monkeypatch.setattr(source, "meta", {"filename": meta, "key": names_key, "md5": digest})
        return written

    return write


CIFAR10 = (
    "CIFAR10",
    "cifar-10-batches-py",
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "labels",
    "label_names",
    9,
)
CIFAR100 = (
    "CIFAR100",
    "cifar-100-python",
    {"train": ["train"], "test": ["test"]},
    "fine_labels",
    "fine_label_names",
    99,
)


@pytest.mark.parametrize(("name", "layout"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_pickles(name, layout, tmp_path, cifar):
    written = cifar(*layout)
    data = load_dataset(name, tmp_path)
    for split in (data.train, data.test):
        assert torch.equal(split.images, written[split.split])
        assert split.images.is_contiguous()
        assert split.labels.tolist() == [0, layout[-1]] * (len(split) // 2)
        assert not split.complete


def test_parquet_comes_before_torchvision(tmp_path, cifar, write_shard):
    cifar(*CIFAR10)
    image = np.full((1, 32, 32, 3), 7, np.uint8)
    write_shard(tmp_path / "cifar10" / "test-00000-of-00001.parquet", image, [4])
    assert load_dataset("cifar10", tmp_path, splits=("test",)).test.labels.tolist() == [4]


def test_damaged_pickle_is_named_and_not_replaced(tmp_path, cifar):
    cifar(*CIFAR10)
    damaged = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(
        UserError, match=r"cifar-10-batches-py is damaged or incomplete .*delete it"
    ):
        load_dataset("cifar10", tmp_path)
    assert damaged.exists()


def write_fashion_mnist(root):
    rng = np.random.default_rng(0)
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    written = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x0803, 3, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = struct.pack(">II", 0x0801, 3) + bytes([0, 9, 5])
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
        written[split] = torch.from_numpy(images)[:, None]
    return written


@pytest.mark.usefixtures("datasets")
def test_fashion_mnist_files(tmp_path):
    written = write_fashion_mnist(tmp_path)
    data = load_dataset("fashion-mnist", tmp_path)
    for split in (data.train, data.test):
        assert torch.equal(split.images, written[split.split])
        assert split.labels.tolist() == [0, 9, 5]


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize("left", [0, 2, 500])
def test_damaged_fashion_mnist_is_named(tmp_path, left):
    write_fashion_mnist(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="raw is damaged or incomplete"):
        load_dataset("fashion-mnist", tmp_path)


def test_svhn_files(tmp_path, datasets, monkeypatch):
    """MATLAB files in the order height, width, channel, image, in which the digit 0 is 10."""
    folder = tmp_path / "svhn"
    folder.mkdir()
    written = {}
    for split in ("train", "test"):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
        path = folder / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.array([[10], [1], [9], [10]], np.uint8)})
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(datasets.SVHN.split_list, split, ["", path.name, digest])
        written[split] = torch.from_numpy(pixels.transpose(3, 2, 0, 1).copy())
    data = load_dataset("svhn", tmp_path)
    for part in (data.train, data.test):
        assert torch.equal(part.images, written[part.split])
        assert part.labels.tolist() == [0, 1, 9, 0]
        assert not part.complete
    (folder / "train_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"svhn is damaged or incomplete .*delete it"):
        load_dataset("svhn", tmp_path)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("cifar10", "CIFAR10"),
        ("cifar100", "CIFAR100"),
        ("fashion-mnist", "FashionMNIST"),
        ("svhn", "SVHN"),
    ],
)
def test_failed_download_names_the_folder_and_the_remedy(
    name, class_name, tmp_path, datasets, monkeypatch
):
    def offline(self):
        (tmp_path / FOLDERS[name]).mkdir(parents=True, exist_ok=True)
        raise URLError("no network")

    monkeypatch.setattr(getattr(datasets, class_name), "download", offline)
    for _ in range(2):
        with pytest.raises(
            UserError, match=f"{name} is not in {tmp_path} .*no network.*HARNESS_DATA"
        ):
            load_dataset(name, tmp_path)


def test_default_root_is_the_data_folder(tmp_path, datasets, monkeypatch):
    roots = []

    def offline(self):
        roots.append(self.root)
        raise URLError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cifar10 is not in data and cannot be downloaded"):
        load_dataset("cifar10")
    assert [str(root) for root in roots] == ["data"]
