"""Checkpoints of the small runs that tests make: the last one, a bit of it flipped, and whether two are the same."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def newest(folder: Path) -> Path:
    """The last checkpoint of a run of two epochs."""
    return folder / "checkpoints" / "epoch-002.safetensors"


def flip(path: Path, place: int = -5) -> None:
    """Flip a bit of the byte at ``place``."""
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def same_state(one: Path, other: Path, name: str) -> None:
    """Two runs have the same bits in a checkpoint."""
    first, second = (load_file(folder / "checkpoints" / f"{name}.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor), key
