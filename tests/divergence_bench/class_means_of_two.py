"""One of two processes that train with ``IKLLoss`` under DistributedDataParallel."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from divergence_bench.losses import IKLLoss


def training() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A small network for five classes, and four batches of eight images, in float64."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    images = torch.rand(4, 8, 3, 2, 2, dtype=torch.float64)
    return model, list(zip(images, torch.randint(5, (4, 8)), strict=True))


def main(folder: Path) -> None:
    """Train on every other image of each batch, and write the class means."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    network, batches = training()
    model, criterion = DistributedDataParallel(network), IKLLoss(5).double()
    for x, y in batches:
        logits, labels = model(x[rank::2]), y[rank::2]
        criterion(logits, 0.9 * logits, labels).backward()
    criterion.end_epoch()
    torch.save(criterion.class_means.matrix_CC, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
