import hashlib
from dataclasses import replace

import pytest
import torch

from harness.data.base import Dataset, ImageSet, limit_train
from harness.data.loader import split_validation
from harness.errors import UserError


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4, 3, 6, 6), "torch.float32; give them as uint8"),
        (torch.zeros(4, 3, 6, 6, dtype=torch.int64), "torch.int64; give them as uint8"),
        (
            torch.zeros(4, 1, 6, 6, dtype=torch.uint8),
            r"\[4, 1, 6, 6\]; give them as \[N, 3, 6, 6\]",
        ),
        (
            torch.zeros(4, 3, 6, 5, dtype=torch.uint8),
            r"\[4, 3, 6, 5\]; give them as \[N, 3, 6, 6\]",
        ),
        (torch.zeros(3, 6, 6, dtype=torch.uint8), r"\[3, 6, 6\]; give them as"),
    ],
)
def test_wrong_images_are_refused(images, message, info):
    with pytest.raises(UserError, match=f"tiny train: images .*{message}"):
        ImageSet(images, torch.zeros(len(images), dtype=torch.int64), info, "train")


def test_only_a_test_split_may_have_floats_in_the_unit_interval(info):
    images, labels = torch.rand(4, 3, 6, 6), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(ImageSet(images, labels, info, "test").images_float(), images)
    with pytest.raises(UserError, match=r"tiny test: images are in .*, not in \[0, 1\]"):
        ImageSet(images + 1, labels, info, "test")
    with pytest.raises(UserError, match=r"float64; give .* or as float32 in \[0, 1\]"):
        ImageSet(images.double(), labels, info, "test")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 3, -1]), r"label 3 at row 2 is outside 0\.\.2; check"),
        (torch.tensor([0, -1, 2, 2]), r"label -1 at row 1 is outside 0\.\.2; check"),
        (torch.tensor([0, 1, 2]), r"shape \[3\]; give int64 of shape \[4\]"),
        (torch.tensor([0, 1, 2, 2], dtype=torch.int32), r"torch.int32 of shape \[4\]; give int64"),
    ],
)
def test_wrong_labels_are_refused(labels, message, info):
    images = torch.zeros(4, 3, 6, 6, dtype=torch.uint8)
    with pytest.raises(UserError, match=message):
        ImageSet(images, labels, info, "test")


def test_hash_is_stable_and_sensitive(image_set, info):
    def digest(images, labels, info=info):
        return ImageSet(images, labels, info, "train").sha256

    images, labels = image_set.images, image_set.labels
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    assert digest(strided, labels) == image_set.sha256
    written = b"(20, 3, 6, 6)" + images.numpy().tobytes() + labels.numpy().tobytes()
    assert image_set.sha256 == hashlib.sha256(written).hexdigest()

    one_pixel = images.clone()
    one_pixel[7, 1, 2, 3] ^= 1
    one_label = labels.clone()
    one_label[4] = (one_label[4] + 1) % 3
    grey = replace(info, channels=1)
    others = {
        digest(one_pixel, labels),
        digest(images, one_label),
        digest(images.flip(0), labels.flip(0)),
        digest(images[:19], labels[:19]),
        digest(images.reshape(60, 1, 6, 6), labels.repeat(3), grey),
    }
    assert len(others) == 5
    assert image_set.sha256 not in others


def test_floats_are_pixels_over_255(image_set):
    chosen = torch.tensor([5, 0, 5])
    floats = image_set.images_float(chosen)
    assert floats.dtype == torch.float32
    expected = (image_set.images[chosen].double() / 255).float()
    assert torch.equal(floats, expected)
    assert torch.equal(image_set.images_float(slice(3, 6)), image_set.images_float()[3:6])
    assert 0 <= image_set.images_float().min() <= image_set.images_float().max() <= 1


def test_subset_is_the_first_images_and_is_marked(image_set):
    part = image_set.subset(5)
    assert torch.equal(part.images, image_set.images[:5])
    assert part.rows.tolist() == [0, 1, 2, 3, 4]
    assert not part.complete
    assert image_set.complete
    assert image_set.subset(20) is image_set


def test_limit_is_nested_seeded_and_marked(image_set):
    small, large = limit_train(image_set, 5), limit_train(image_set, 9)
    assert small.rows.tolist() == large.rows.tolist()[:5]
    assert (
        small.rows.tolist()
        == torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()[:5]
    )
    assert torch.equal(small.images, image_set.images[small.rows])
    assert torch.equal(small.labels, image_set.labels[small.rows])
    assert not small.complete
    assert limit_train(image_set, 20) is image_set
    with pytest.raises(UserError, match=r"data.train_limit is 21, but .* has 20 images"):
        limit_train(image_set, 21)


def test_validation_split_is_disjoint_exhaustive_and_seeded(image_set):
    kept, held = split_validation(image_set, 6, seed=1)
    assert (len(kept), len(held)) == (14, 6)
    assert sorted(kept.rows.tolist() + held.rows.tolist()) == list(range(20))
    for part in (kept, held):
        assert part.rows.tolist() == sorted(part.rows.tolist())
        assert torch.equal(part.images, image_set.images[part.rows])
        assert torch.equal(part.labels, image_set.labels[part.rows])
        assert part.complete
    assert (kept.split, held.split) == ("train", "val")
    assert torch.equal(split_validation(image_set, 6, seed=1)[1].rows, held.rows)
    assert not torch.equal(split_validation(image_set, 6, seed=2)[1].rows, held.rows)


def test_rows_follow_through_limit_and_validation(image_set):
    limited = limit_train(image_set, 10)
    kept, held = split_validation(limited, 4, seed=0)
    assert set(kept.rows.tolist()) | set(held.rows.tolist()) == set(limited.rows.tolist())
    assert torch.equal(held.images, image_set.images[held.rows])


@pytest.mark.parametrize("size", [0, 20, 21, -1])
def test_validation_size_must_leave_both_parts(image_set, size):
    with pytest.raises(UserError, match=r"give a validation size in 1\.\.19"):
        split_validation(image_set, size, seed=0)


def test_split_that_was_not_loaded_is_an_error(image_set, info):
    data = Dataset(info, train=image_set)
    assert data.train is image_set
    with pytest.raises(RuntimeError, match="test split of tiny was not loaded"):
        _ = data.test
