"""Seeds derived from their purpose, so that no result depends on the order of work."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**63) that depends on all parts and their order."""
    text = "\x1f".join(repr(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_generator(device: torch.device, *parts: object) -> torch.Generator:
    """A generator on the device, seeded from the parts."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(*parts))
    return generator
