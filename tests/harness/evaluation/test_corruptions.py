"""Corruptions against plain formulas and other libraries, and their accuracy end to end."""

import colorsys
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from divergence_bench.cli import corrupt as cli_corrupt
from divergence_bench.cli.main import app
from harness.data import Dataset, ImageSet, dataset_info
from harness.errors import UserError
from harness.evaluation import corrupted
from harness.evaluation.corrupted import evaluate_corrupted
from harness.evaluation.corruptions import CORRUPTIONS, SEVERITIES, blur, chosen, corrupt, weather
from harness.models import build_model
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from harness.training.checkpoint import save_model

CPU = torch.device("cpu")


def picture(seed: int) -> NDArray[np.uint8]:
    """A smooth coloured image of eight bits with edges."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32] / 31
    a, b, c = generator.uniform(0.2, 0.8, 3)
    x = np.stack([a * rows + 0.1, b * columns + 0.1, c * rows * columns + 0.1], axis=2)
    x[8:20, 10:24] = generator.uniform(0.2, 0.8, 3)
    return np.rint(255 * x).astype(np.uint8)


PICTURES = [picture(seed) for seed in range(6)]
GREY = np.full((32, 32, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_an_image_and_the_same_for_the_same_seed(name: str) -> None:
    for severity in SEVERITIES:
        found = corrupt(PICTURES[0], name, severity, 0, 7)
        assert found.shape == (32, 32, 3)
        assert found.dtype == np.uint8
        assert np.array_equal(found, corrupt(PICTURES[0], name, severity, 0, 7))
    random = not np.array_equal(found, corrupt(PICTURES[0], name, 5, 0, 8))
    fixed = {"defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression"}
    assert random == (name not in fixed)


def moved(name: str, severity: int) -> float:
    """How far a corruption moves images on average, in grey levels."""
    found = [
        np.abs(corrupt(x, name, severity, seed).astype(float) - x).mean()
        for x in PICTURES
        for seed in range(4)
    ]
    return float(np.mean(found))


@pytest.fixture(scope="module")
def distances() -> dict[str, list[float]]:
    return {name: [moved(name, severity) for severity in SEVERITIES] for name in CORRUPTIONS}


def test_severity_moves_images_further_on_average(distances: dict[str, list[float]]) -> None:
    means = np.mean(list(distances.values()), axis=0).tolist()
    assert means == sorted(means), means
    assert means[-1] > 2 * means[0]
    # These draw no random numbers, or so many that chance averages out.
    for name in ("gaussian-noise", "shot-noise", "impulse-noise", "fog", "brightness", "contrast"):
        assert distances[name] == sorted(distances[name]), name
    # As it raises the displacement of elastic-transform, it lowers its affine part.
    for name, found in distances.items():
        assert min(found) > 0, name
        assert found[4] > found[0] or name == "elastic-transform", (name, found)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_variance_of_its_formula(severity: int) -> None:
    grey, n = 128 / 255, 40
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    photons = (500, 250, 100, 75, 50)[severity - 1]
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]

    def values(name: str) -> NDArray[np.float64]:
        """Before rounding to eight bits, which beats with the steps of shot noise."""
        generator = np.random.default_rng(severity)
        return np.stack([CORRUPTIONS[name](GREY / 255, severity, generator) for _ in range(n)])

    assert values("gaussian-noise").var() == pytest.approx(sigma**2, rel=0.03)
    assert values("shot-noise").var() == pytest.approx(grey / photons, rel=0.03)
    assert values("shot-noise").mean() == pytest.approx(grey, abs=2e-3)
    impulse = values("impulse-noise")
    assert (impulse == 0).mean() == pytest.approx(share / 2, rel=0.1)
    assert (impulse == 1).mean() == pytest.approx(share / 2, rel=0.1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_and_brightness_by_their_formulas(severity: int) -> None:
    x = PICTURES[1] / 255
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = x.reshape(-1, 3).mean(0)
    expected = np.rint(255 * (means + kept * (x - means)))
    assert np.abs(corrupt(PICTURES[1], "contrast", severity) - expected).max() <= 1
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    black = PICTURES[1].copy()
    black[0, 0] = 0
    found = corrupt(black, "brightness", severity)
    for row, column in [(0, 0), (3, 5), (10, 12), (31, 31)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*black[row, column] / 255)
        rgb = colorsys.hsv_to_rgb(hue, saturation, min(1, value + more))
        assert found[row, column].tolist() == pytest.approx(255 * np.array(rgb), abs=0.51)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_and_pixelate_are_pillows(severity: int) -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURES[2]).save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
    assert np.array_equal(corrupt(PICTURES[2], "jpeg-compression", severity), Image.open(file))
    small = int(32 * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])
    box = Image.Resampling.BOX
    expected = Image.fromarray(PICTURES[2]).resize((small, small), box).resize((32, 32), box)
    assert np.array_equal(corrupt(PICTURES[2], "pixelate", severity), expected)


def test_blurs_keep_a_flat_image_and_the_mean_of_a_point() -> None:
    for name in ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "elastic-transform"):
        assert np.abs(corrupt(GREY, name, 5, 0).astype(int) - 128).max() <= 1, name
    point = np.zeros((32, 32, 3))
    point[16, 16] = 1
    for severity in SEVERITIES:
        generator = np.random.default_rng(0)
        assert blur.defocus_blur(point, severity, generator).sum() == pytest.approx(3)
        assert blur.motion_blur(point, severity, generator).sum() == pytest.approx(3)


def test_a_smear_is_half_a_gaussian_along_its_line() -> None:
    point = np.zeros((32, 32, 1))
    point[16, 16] = 1
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    level = blur.smeared(point, 6, 2, 0)[:, :, 0]
    assert level[16, 4:17][::-1] == pytest.approx(weights / weights.sum())
    assert level[:16].sum() == level[17:].sum() == 0
    upright = blur.smeared(point, 6, 2, -90)[:, :, 0]
    assert upright[16:29, 16] == pytest.approx(weights / weights.sum())


def test_an_enlargement_shows_the_middle() -> None:
    rows = np.repeat(np.arange(32.0)[:, None], 32, 1)[:, :, None]
    large = blur.zoomed(rows, 1.25)
    assert large.shape == (32, 32, 1)
    assert float(large[:, 0, 0].mean()) == pytest.approx(15.5, abs=0.6)
    assert float(np.diff(large[:, 0, 0]).mean()) == pytest.approx(1 / 1.25, rel=0.05)
    assert np.array_equal(blur.zoomed(rows, 1.0), rows)


def test_a_height_map_is_rougher_with_less_decay() -> None:
    def roughness(decay: float) -> float:
        maps = [weather.plasma(32, decay, np.random.default_rng(seed)) for seed in range(20)]
        assert all(each.min() == 0 and each.max() == 1 for each in maps)
        return float(np.mean([np.abs(np.diff(each, axis=0)).mean() for each in maps]))

    assert roughness(1.75) > roughness(3)


def test_groups_and_names_are_chosen_in_one_order() -> None:
    assert chosen("all") == tuple(CORRUPTIONS)
    assert len(CORRUPTIONS) == 15
    assert chosen("fog, noise,fog") == ("gaussian-noise", "shot-noise", "impulse-noise", "fog")
    with pytest.raises(UserError, match="did you mean frost-synthetic"):
        chosen("frost-synthetc")
    with pytest.raises(UserError, match="32 x 32"):
        corrupt(np.zeros((8, 8, 1), dtype=np.uint8), "fog", 1)


class Bright(nn.Module):
    """Class 1 for images brighter than half, else class 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 10)
        logits[:, 1] = x.flatten(1).mean(1) - 0.5
        return logits


@pytest.fixture
def images() -> ImageSet:
    """Grey images just below half, which brightness from 0.1 on lifts over it; all of class 0."""
    grey = torch.full((12, 3, 32, 32), 110, dtype=torch.uint8)
    return ImageSet(grey, torch.zeros(12, dtype=torch.int64), dataset_info("cifar10"), "test")


def test_accuracies_are_counts_and_finished_parts_are_kept(
    images: ImageSet,
    new_run: Callable[[str], RunDirectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run("corrupted")
    run.update(metrics={"sec_per_iter": {"value": 1.0}})
    names = ("brightness", "contrast")
    found = evaluate_corrupted(Bright(), images, run, names=names, device=CPU)
    assert found.correct == {"brightness": [12, 0, 0, 0, 0], "contrast": [12] * 5}
    assert not found.whole
    metrics = run.record["metrics"]
    assert metrics["corruption-partial/brightness/1"]["value"] == 1
    assert metrics["corruption-partial/brightness"]["value"] == pytest.approx(0.2)
    assert metrics["corruption-partial/mean"]["value"] == pytest.approx(0.6)
    assert metrics["sec_per_iter"] == {"value": 1.0}
    assert run.evaluations() == []
    asked: list[str] = []
    count = corrupted.correct_images
    monkeypatch.setattr(
        corrupted, "correct_images", lambda *args: asked.append(args[3]) or count(*args)
    )
    again = evaluate_corrupted(Bright(), images, run, names=names, device=CPU)
    assert again == found
    assert asked == []
    with pytest.raises(UserError, match="at most 12"):
        evaluate_corrupted(Bright(), images, run, names=names, limit=13, device=CPU)


def test_an_images_corruption_depends_on_its_row_alone(images: ImageSet) -> None:
    every = corrupted.corrupted_batch(images, torch.arange(12), "fog", 3, 0)
    part = corrupted.corrupted_batch(images, torch.tensor([7, 2]), "fog", 3, 0)
    assert torch.equal(part, every[[7, 2]])
    assert not torch.equal(every[7], every[2])
    assert not torch.equal(every, corrupted.corrupted_batch(images, torch.arange(12), "fog", 3, 1))


def test_the_verb_stores_every_accuracy(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(tmp_path, "some-run")
    run.update(kind="trained", dataset="cifar10", status="success", provenance={})
    torch.manual_seed(0)
    save_model(
        run.model_path, build_model("resnet8", 10, 3, 32), arch="resnet8", num_classes=10,
        in_channels=3, image_size=32, normalize=None, dataset="cifar10", method="some", epoch=1,
    )  # fmt: skip
    data = Dataset(images.info, test=images)
    monkeypatch.setattr(cli_corrupt, "load_dataset", lambda name, root: data)
    command = ["corrupt", "some-run", "--results", str(tmp_path), "--device", "cpu"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert "frost is synthetic" in ended.stdout
    answer = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    rows = Database(tmp_path).query("SELECT name, value, n FROM metrics WHERE run_id = 'some-run'")
    stored = dict(zip(rows["name"], rows["value"], strict=True))
    assert stored == {name: told["value"] for name, told in answer["metrics"].items()}
    assert len(stored) == 15 * 5 + 15 + 1
    assert stored["corruption/mean"] == pytest.approx(
        np.mean([v for name, v in stored.items() if name.count("/") == 2])
    )
    assert set(rows["n"]) == {12}
    bad = CliRunner().invoke(app, [*command, "--severities", "6"])
    assert isinstance(bad.exception, UserError)
