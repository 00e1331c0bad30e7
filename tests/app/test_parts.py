"""The app's pure parts: points, separation of classes, pictures, Markdown."""

import io
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from app import reference_maps
from app.components import _stamp, plain
from app.embedding import adversarial, embedded, random_classes, separation
from app.gallery import adversarial_images, disagreement_images, triptych
from app.labels import protocol_names, watched_images
from harness.data import dataset_info, load_dataset
from harness.data.base import Preparation
from harness.errors import UserError
from harness.models import build_model
from harness.store.database import Database
from harness.store.rundir import RunDirectory


def test_separated_classes_score_high_and_mixed_ones_low() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    noise = generator.normal(size=(90, 8))
    apart = separation((noise + 50 * np.eye(8)[labels]).astype(np.float32), labels)
    mixed = separation(noise.astype(np.float32), labels)
    assert apart.silhouette > 0.8
    assert apart.neighbours == 1
    assert apart.spread < 0.1
    assert abs(mixed.silhouette) < 0.1
    assert mixed.neighbours < 0.6
    assert mixed.spread == pytest.approx(1, abs=0.1)


def test_classes_are_drawn_by_the_seed() -> None:
    assert random_classes(100, 20, 0) == random_classes(100, 20, 0)
    assert random_classes(100, 20, 0) != random_classes(100, 20, 1)
    assert random_classes(10, 20, 5) == tuple(range(10))


def test_the_attack_of_the_picture_stays_in_the_ball_and_raises_the_loss() -> None:
    model = build_model("resnet8", 10, 1, 8).eval()
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    x_adv = adversarial(model, x, y, eps=0.1, seed=0)
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert 0 <= x_adv.min()
    assert x_adv.max() <= 1
    entropy = torch.nn.functional.cross_entropy
    with torch.no_grad():
        assert entropy(model(x_adv), y) > entropy(model(x), y)


def test_a_picture_is_the_same_for_the_same_seed(small_store) -> None:
    results, ids = small_store
    settings = {"eps": 0.15, "classes": 3, "per_class": 6, "seed": 1, "root": None}
    first = embedded.__wrapped__(str(results), ids["a"], 0, **settings)
    again = embedded.__wrapped__(str(results), ids["a"], 0, **settings)
    assert first.points.equals(again.points)
    assert len(first.points) == 2 * 3 * 6
    assert first.points["label"].nunique() == 3


def test_saved_images_are_found_by_their_row(small_store) -> None:
    results, ids = small_store
    evaluation = RunDirectory(results, ids["a"]).evaluation("e" * 12)
    rows = (3, 30)
    pictures = adversarial_images(str(results), ids["a"], "e" * 12, rows, None)
    assert len(pictures) == 2
    chunk = np.load(evaluation.chunk_path(1).with_suffix(".adversarial.npy"))
    side = pictures[1].shape[0]
    middle = pictures[1][:, side + 4 : 2 * side + 4, 0]
    assert (middle[:: side // 8, :: side // 8] == chunk[30 - 25, 0]).all()


def test_images_that_are_saved_again_are_read_again(store_run, tmp_path) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT")
    path = RunDirectory(tmp_path, run_id).evaluation("e" * 12).chunk_path(0)
    path = path.with_suffix(".adversarial.npy")
    (before,) = adversarial_images(str(tmp_path), run_id, "e" * 12, (3,), None)
    images = np.load(path)
    path.unlink()
    np.save(path, 255 - images)
    (after,) = adversarial_images(str(tmp_path), run_id, "e" * 12, (3,), None)
    assert (after[:, :96] == before[:, :96]).all()
    assert (after[:, 100:196] == 255 - before[:, 100:196]).all()


@pytest.fixture(name="run_prepared")
def _run_prepared(store_run, tmp_path):
    """Stores a run on images of 96x144 pixels whose attacks changed nothing, prepared as given."""
    generator = np.random.default_rng(0)
    for name in ("a0", "a1", "b0", "b1"):
        path = tmp_path / "images" / "test" / name[0] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (96, 144, 3), np.uint8)).save(path)
    folder = str(tmp_path / "images")
    dataset = dataset_info(f"folder:{folder}").name

    def store(preparation: Preparation, **fields) -> tuple[str, str]:
        source = {"source": "zoo:x", "preparation": asdict(preparation)}
        run_id = store_run(tmp_path, "ikl", "IKL-AT", dataset=dataset, source=source, **fields)
        images = load_dataset(dataset, folder, splits=("test",)).test.prepared(preparation)
        saved = np.empty((25, 3, preparation.size, preparation.size), np.float32)
        saved[images.rows] = images.images_float()
        path = RunDirectory(tmp_path, run_id).evaluation("e" * 12).chunk_path(0)
        np.save(path.with_suffix(".adversarial.npy"), saved)
        return run_id, folder

    return store


OTHER_PREPARATIONS = (Preparation(80, 90), Preparation(96, 96, "bicubic"))


def test_clean_images_are_prepared_as_the_evaluated_ones(run_prepared, tmp_path) -> None:
    for seed, preparation in enumerate((*OTHER_PREPARATIONS, Preparation(96, 109))):
        run_id, folder = run_prepared(preparation, seed=seed)
        pictures = adversarial_images(str(tmp_path), run_id, "e" * 12, (0, 3), folder)
        for picture in pictures:
            assert picture.shape == (preparation.size, 3 * preparation.size + 8, 3)
            # No difference is grey.
            assert (picture[:, -preparation.size :] == 128).all()


def test_images_prepared_differently_are_not_shown_side_by_side(run_prepared, tmp_path) -> None:
    small, other = OTHER_PREPARATIONS
    (a, folder), (b, _), (c, _) = (
        run_prepared(each, seed=seed) for seed, each in enumerate((small, small, other))
    )
    names = [(run_id, "e" * 12) for run_id in (a, b, c)]
    how = {"rows": (1,), "root": folder, "clean_only": False}
    (picture,), attacked = disagreement_images(str(tmp_path), (names[0], names[1]), **how)
    assert (picture.shape, attacked) == ((80, 3 * 80 + 8, 3), True)
    with pytest.raises(UserError, match="resized or cropped differently"):
        disagreement_images(str(tmp_path), (names[0], names[2]), **how)


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [("cifar10", "cifar-10-batches-py"), ("fashion-mnist", "FashionMNIST"), ("svhn", "svhn")],
)
def test_data_that_is_not_here_is_not_fetched(tmp_path, monkeypatch, dataset, folder) -> None:
    from app.gallery import test_images as images_of

    (tmp_path / folder).mkdir()
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"{dataset} is not in {tmp_path}: .* HARNESS_DATA"):
        images_of(dataset, None)
    assert [path.name for path in tmp_path.rglob("*")] == [folder]


def test_images_of_a_run_from_another_machine_are_those_of_this_one(tmp_path, monkeypatch) -> None:
    from app.gallery import test_images as images_of

    encoded = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 0, 0)).save(encoded, "PNG")
    shard = pa.table({"img": [{"bytes": encoded.getvalue()}] * 2, "label": [3, 5]})
    pq.write_table(shard, tmp_path / "test-00000-of-00001.parquet")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    found = images_of("cifar10", "/a/folder/of/another/machine")
    assert found.labels.tolist() == [3, 5]


@pytest.mark.parametrize("folder", ["imagenet/val", "val"])
def test_imagenet_is_found_where_its_loader_finds_it(tmp_path, monkeypatch, folder) -> None:
    from app.gallery import test_images as images_of

    for label in range(1000):
        place = tmp_path / folder / f"n{label:08d}"
        place.mkdir(parents=True)
        (place / "image.JPEG").touch()
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert len(images_of("imagenet", None)) == 1000


def test_no_difference_is_grey() -> None:
    image = np.full((1, 8, 8), 0.25, np.float32)
    picture = triptych(image, image)
    assert (picture[:, -96:] == 128).all()


def test_markdown_signs_are_shown_as_text() -> None:
    assert plain("[x](http://evil) <b> *a* $b$") == r"\[x\](http\://evil) &lt;b&gt; \*a\* \$b\$"


def test_protocols_with_the_same_words_have_different_names_which_newer_runs_keep() -> None:
    protocol = {
        "dataset": "digits", "scale": "small", "partial": False, "n": 40, "attacks": "",
        "precision": "float32", "best_on_test": False,
    }  # fmt: skip
    rows = [protocol | {"like_key": key} for key in "aba"]
    names = protocol_names(pd.DataFrame(rows))
    # As `printf a | sha256sum` has them.
    assert names[0] == names[2] == "clean only, n = 40, small scale (ca9781)"
    assert names[1] == "clean only, n = 40, small scale (3e23e8)"
    newer = [protocol | {"like_key": key} for key in "cba"]
    assert protocol_names(pd.DataFrame(newer))[1:] == [names[1], names[0]]
    assert protocol_names(pd.DataFrame(rows[:1])) == ["clean only, n = 40, small scale"]
    rows[1]["best_on_test"] = True
    assert protocol_names(pd.DataFrame(rows[:2])) == [
        "clean only, n = 40, small scale",
        "clean only, n = 40, small scale, best epoch on test",
    ]


@pytest.mark.parametrize(
    ("val_size", "rule", "images"),
    [
        (0, "last", "test images"),
        (1000, "last", "held-out training images"),
        (1000, "best-on-val", "held-out training images"),
        (1000, "best-on-test", "test images"),
    ],
)
def test_accuracy_in_training_names_its_images(val_size, rule, images) -> None:
    config = {"data": {"val_size": val_size}, "training": {"selection": {"rule": rule}}}
    assert watched_images(config) == images


def test_a_run_that_could_not_be_stored_ends_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    before = _stamp()
    mark = Database(tmp_path).mark("ikl-000000000000")
    marked = _stamp()
    assert marked != before
    mark.unlink()
    assert _stamp() == before


def test_maps_that_ship_are_read_as_they_were_made(small_store, monkeypatch, tmp_path) -> None:
    results, ids = small_store
    made = reference_maps.make(results, [ids["a"]], None)
    monkeypatch.setattr(reference_maps, "MAPS", tmp_path / "maps.json")
    reference_maps.MAPS.write_text(reference_maps.to_json(made))
    (read,) = reference_maps.reference_maps()
    assert read.run == made[0].run
    assert read.embedding.clean == made[0].embedding.clean
    assert read.embedding.points["label"].tolist() == made[0].embedding.points["label"].tolist()
    gap = read.embedding.points[["x", "y"]] - made[0].embedding.points[["x", "y"]]
    assert gap.abs().max().max() <= 0.005 + 1e-6


def test_the_maps_that_ship_are_small_and_of_two_runs() -> None:
    assert reference_maps.MAPS.stat().st_size < 100_000
    first, second = reference_maps.reference_maps()
    assert first.run["run_id"] != second.run["run_id"]
    assert first.run["dataset"] == second.run["dataset"]
    assert (first.embedding.points["kind"] == "clean").sum() == len(first.embedding.points) / 2
