"""Training attacks that pass a batch through the network in pieces."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from harness.config import RunConfig
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.models.loading import load_model_file
from harness.progress import Reporter
from harness.store.rundir import RunDirectory
from harness.training import tiles
from harness.training.tiles import SMALLEST_TILE, TILE_BYTES, Tiled, images_at_once


class Sized(nn.Module):
    """Its largest activation for an image has ``values`` float32 numbers."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(4, values), nn.Linear(values, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.wide(self.narrow(x.flatten(1)))
        return logits


def test_a_piece_is_what_the_largest_activation_allows():
    images = torch.rand(3, 1, 2, 2)
    for values, expected in ((TILE_BYTES // 4 // 40, 40), (TILE_BYTES // 4, SMALLEST_TILE)):
        network = Sized(values)
        assert images_at_once(network, images) == expected
        assert not network.narrow._forward_hooks
    # The images themselves count, too.
    assert images_at_once(nn.Flatten(), torch.rand(1, 1, 2, TILE_BYTES // 8 // 20)) == 20


def test_a_batch_is_not_cut_where_its_statistics_count_in_eval_mode():
    norm = nn.BatchNorm1d(TILE_BYTES // 4, track_running_stats=False)
    network, x = nn.Sequential(nn.Flatten(), norm).eval(), torch.rand(20, 1, 1, TILE_BYTES // 4)
    tiled = Tiled(network, images_at_once(network, x))
    torch.testing.assert_close(tiled(x), network(x), rtol=0, atol=0)
    # Pieces would have changed the result.
    assert not torch.allclose(Tiled(network, 10)(x), network(x))


@pytest.mark.parametrize(
    ("images", "pieces"), [(4, [4, 4, 2]), (9, [5, 5]), (10, [10]), (99, [10])]
)
def test_pieces_have_the_logits_and_gradients_of_the_batch(images, pieces):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)]
    network, seen = nn.Sequential(*layers).double().eval(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    x = torch.rand(10, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    whole, parts = network(x), Tiled(network, images)(x)
    assert seen == [10, *pieces]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)
    (expected,), (found,) = (
        torch.autograd.grad(logits.logsumexp(1).sum(), x) for logits in (whole, parts)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_training_attacks_in_pieces_only_where_no_image_sees_another(mode, tmp_path, monkeypatch):
    def trained(results: Path) -> tuple[dict[str, Tensor], set[tuple[bool, int]]]:
        config: RunConfig = resolve(
            "trades",
            options={
                "results": results,
                "device": "cpu",
                "training.epochs": 1,
                "training.batch_size": 32,
                "training.monitor.every": 0,
                "training.precision": "float64",
                "training.attack.model_mode": mode,
                "data.train_limit": 64,
                "evaluation.limit": 1,
                "evaluation.attacks": [],
            },
        )
        sizes: set[tuple[bool, int]] = set()

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # Models are evaluated in float32.
            training = inputs[0].dtype == torch.float64 and torch.is_grad_enabled()
            if isinstance(module, nn.Conv2d) and training:
                sizes.add((module.training, len(inputs[0])))

        watch = register_module_forward_pre_hook(note)
        try:
            run(config, Reporter(quiet=True))
        finally:
            watch.remove()
        model = load_model_file(RunDirectory(results, config.run_id).model_path)
        return model.state_dict(), sizes

    expected, whole = trained(tmp_path / "whole")
    monkeypatch.setattr(tiles, "SMALLEST_TILE", 12)
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)
    found, pieces = trained(tmp_path / "pieces")
    if mode == "eval":
        assert (whole, pieces) == (
            {(False, 32), (True, 32)},
            {(False, 11), (False, 10), (True, 32)},
        )
    else:
        assert whole == pieces == {(True, 32)}
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
