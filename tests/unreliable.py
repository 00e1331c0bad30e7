"""Models that fail in every process except the one that created them.

They are in a module so that other processes can import them.
"""

import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn


class Failing(nn.Module):
    """Raises an error."""

    def __init__(self, error: type[Exception], *arguments: str) -> None:
        super().__init__()
        self.linear, self.home = nn.Linear(64, 10), os.getpid()
        self.error, self.arguments = error, arguments

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home:
            raise self.error(*self.arguments)
        return self.linear(x.flatten(1))


class Unpicklable(Exception):
    """Cannot be sent to another process."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


class Dying(nn.Module):
    """Kills its process until a folder has ``most`` files, one for each death."""

    def __init__(self, deaths: Path, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
        self.deaths, self.most, self.home = str(deaths), most, os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        died = len(os.listdir(self.deaths))
        if os.getpid() != self.home and died < self.most:
            Path(self.deaths, str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x.flatten(1))
