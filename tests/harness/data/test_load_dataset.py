import pytest
import torch
from sklearn.datasets import load_digits

from harness.data import DATASETS, dataset_info, load_dataset
from harness.errors import UserError

TRAIN_SHA256 = "a91fe7353c210cab45747da5b457a6b559b559561aad17c6bd206c60c6278b6e"
TEST_SHA256 = "2a5e0fcfaf6756a47071f11e1bb55825095fb62fc132db94ade8787f946ca833"


def test_digits_split_is_fixed():
    data = load_dataset("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert (data.train.sha256, data.test.sha256) == (TRAIN_SHA256, TEST_SHA256)
    assert data.train.complete
    assert data.test.complete


def test_digits_are_the_source_rescaled_and_stratified():
    source = load_digits()
    data = load_dataset("digits")
    both = torch.cat([data.train.images_float(), data.test.images_float()])[:, 0]
    # 255/16 is no integer, so a pixel is off by at most half of 1/255.
    levels = (both * 16).round()
    assert (both - levels / 16).abs().max() <= 0.5 / 255 + 1e-7

    def key(images):
        return sorted(tuple(image) for image in images.reshape(-1, 64).astype(int).tolist())

    assert key(levels.numpy()) == key(source.images)
    everything = torch.from_numpy(source.target).bincount()
    assert (data.test.labels.bincount() - everything * 360 / 1797).abs().max() < 1


def test_digits_mean_and_std():
    pixels = load_dataset("digits").train.images_float().double()
    info = dataset_info("digits")
    assert pixels.mean().item() == pytest.approx(info.mean[0], abs=5e-5)
    assert pixels.std(correction=0).item() == pytest.approx(info.std[0], abs=5e-5)


@pytest.mark.parametrize("name", DATASETS.names())
def test_descriptions_fit_themselves(name):
    info = dataset_info(name)
    assert info.name == name
    assert len(info.mean) == len(info.std) == info.channels
    assert len(set(info.class_names)) == len(info.class_names)
    # ImageNet's names are its folders', known only once a folder is opened.
    assert len(info.class_names) == (0 if "imagenet" in name else info.num_classes)
    assert 0 < info.default_eps <= 0.15
    assert info.small_scale == (name in {"digits", "fashion-mnist"})


def test_only_the_requested_split_is_loaded():
    data = load_dataset("digits", splits=("test",))
    assert len(data.test) == 360
    with pytest.raises(RuntimeError, match="train split of digits was not loaded"):
        _ = data.train


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist", "imagenet", "svhn", "tiny-imagenet"])
def test_missing_root_is_named(name, tmp_path, monkeypatch):
    missing = tmp_path / "nowhere"
    with pytest.raises(UserError, match=r"data root .*nowhere is not a folder"):
        load_dataset(name, missing)
    monkeypatch.setenv("HARNESS_DATA", str(missing))
    with pytest.raises(UserError, match=r"HARNESS_DATA=.*nowhere is not a folder"):
        load_dataset(name)
