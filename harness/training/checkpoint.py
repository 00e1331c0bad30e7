"""Training checkpoints, from which a killed training run resumes exactly.

No random state is saved: every epoch draws from generators seeded by (run seed, epoch), so an epoch
is the same whether or not the process was restarted before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.store.files import read_torch, write_torch_atomic

TRAINING_FORMAT = "divergence-bench training state"


def save_training(path: Path, **state: Any) -> None:
    """Write a training checkpoint atomically."""
    write_torch_atomic({"format": TRAINING_FORMAT, **state}, path)


def load_training(path: Path) -> dict[str, Any] | None:
    """Load the training checkpoint at ``path`` to the CPU; None if the file does not exist.

    Raises:
        UserError: the file is not a training checkpoint.
    """
    if not path.exists():
        return None
    try:
        state = read_torch(path)
    except Exception as error:  # damaged bytes can raise any type
        raise UserError(
            f"the training checkpoint {path} cannot be read ({type(error).__name__}): delete it to "
            "train that run from the start"
        ) from error
    if not isinstance(state, dict) or state.get("format") != TRAINING_FORMAT:
        raise UserError(f"{path} is not a training checkpoint: delete it or choose another folder")
    return state
