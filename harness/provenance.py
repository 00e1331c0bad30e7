"""The provenance of a result: code, packages, machine, numeric flags and command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from harness.compat import active_shims

PACKAGES = tuple(
    "divergence-bench torch torchvision pyautoattack duckdb numpy robustbench timm".split()
)
CHECKOUT = Path(__file__).resolve().parents[1]
MASK = "***"

_SECRET_WORD = r"(?:token|secret|password|passwd|pwd|api[-_]?key|access[-_]?key|credentials?|auth)"
_SECRET_NAME = re.compile(rf"(?i)(?:^|[-_.]){_SECRET_WORD}(?:$|[-_.])")
_SECRET_QUERY = re.compile(rf"(?i)([?&][^=&#]*(?:{_SECRET_WORD}|sig|signature|key)[^=&#]*=)[^&#]+")
_URL_USER = re.compile(r"(://)[^/@\s]+@")
_SECRET_VALUE = re.compile(
    r"\b(?:hf_|gh[opsur]_|github_pat_|glpat-|sk-|xox[abpr]-|AKIA|pypi-)[\w-]{12,}"
)


def collect(device: torch.device | str) -> dict[str, Any]:
    """Collect the provenance of a result, ready for JSON.

    Args:
        device: the device of the computation.

    Returns:
        ``git`` (None outside a checkout of this project), ``packages`` (None if not installed),
        ``python``, ``platform``, ``cpu``, ``device``, ``num_threads``, ``precision``, ``shims``,
        ``command`` (without the program's folder or credentials), and ``collected_at`` (UTC).
    """
    return {
        "git": git_state(CHECKOUT),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "device": device_name(torch.device(device)),
        "num_threads": torch.get_num_threads(),
        "precision": _precision(),
        "shims": active_shims(),
        "command": without_credentials([_program(), *sys.argv[1:]]),
        "collected_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _program() -> str:
    """The program's name without its folder."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out in ``folder``, and whether files were changed or added.

    None if ``folder`` is not the top of a checkout: an installed package may be inside the checkout
    of another project.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def without_credentials(argv: Sequence[str]) -> list[str]:
    """A command line with ``***`` in place of everything that looks like a credential."""
    shown = []
    mask_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        secret = bool(_SECRET_NAME.search(name.lstrip("-")))
        if mask_next and not word.startswith("--"):
            shown.append(MASK)
        elif secret and equals:
            shown.append(f"{name}={MASK}")
        else:
            word = _URL_USER.sub(rf"\1{MASK}@", word)
            shown.append(_SECRET_VALUE.sub(MASK, _SECRET_QUERY.sub(rf"\1{MASK}", word)))
        mask_next = secret and not equals and word.startswith("-")
    return shown


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None if it is not installed or fails."""
    # Do not wait for, or block, a git command that the user runs at the same time.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)  # names the build, such as +cu130, which metadata may not
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """The device with its model, such as ``cuda:0 (NVIDIA H100)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_cpu_model()})" if device.type == "cpu" else str(device)


def _precision() -> dict[str, Any]:
    """Flags that change the last bits of a result.

    For float32 products ``tf32`` rounds to 10 bits, ``ieee`` does not, and ``none`` is the
    backend's default.
    """
    cudnn = torch.backends.cudnn
    return {
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "convolution": cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "cudnn_version": cudnn.version(),
        "cudnn_enabled": cudnn.enabled,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
