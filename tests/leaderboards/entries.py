"""Files of RobustBench's shape, the boards with them, and a run that belongs on one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from leaderboards.build import field
from leaderboards.table import Row

ATTACKED: dict[str, Any] = {
    "link": "https://arxiv.org/abs/2302.04638",
    "name": "Better Diffusion Models Further Improve Adversarial Training",
    "authors": "Zekai Wang, Tianyu Pang",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar100",
    "venue": "ICML 2023",
    "architecture": "WideResNet-70-16",
    "eps": "8/255",
    "clean_acc": "75.22",
    "reported": "42.67",
    "autoattack_acc": "42.67",
    "footnote": 'It uses <a href="x">additional</a> 50M synthetic images &amp; no more.',
    "unreliable": False,
}
CORRUPTED = {
    name: value for name, value in ATTACKED.items() if name not in ("autoattack_acc", "unreliable")
} | {
    "eps": None,
    "corruptions_acc": "80.10",
    "corruptions_mce": "33.00",
    "footnote": None,
    "reported": "null",
}
FULL = {
    "n": 10000,
    "dataset": "cifar100",
    "arch": "wrn-34-10",
    "scale": "paper",
    "protocol": {"eps": 8 / 255},
}
LEFT = (6651, 3546, 3145, 3145, 3145)


def folder_of(root: Path, **entries: dict[str, Any]) -> Path:
    """A ``model_info`` folder; ``cifar10__Linf__Name`` is the file ``cifar10/Linf/Name.json``."""
    for place, entry in entries.items():
        path = root / (place.replace("__", "/") + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
    return root


def entries(number: int, results: Path | None) -> list[Row]:
    """The published rows of a board."""
    return [row for row in field(number, results).rows if row.kind == "published"]


def board_files(root: Path) -> Path:
    """Entries of three boards, one of them at a radius of 0.031."""
    return folder_of(
        root,
        cifar100__Linf__Wang2023Better=ATTACKED,
        cifar100__Linf__Other_031=ATTACKED | {"eps": "0.031"},
        cifar100__L2__Other_L2=ATTACKED,
        cifar10__Linf__Ten=ATTACKED
        | {"dataset": "cifar10", "external": "60.00", "additional_data": True},
        cifar100__corruptions__Blur=CORRUPTED,
    )
