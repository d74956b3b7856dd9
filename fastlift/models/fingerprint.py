"""A short name for a set of weights, so that a cache or a checkpoint never meets other weights unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of names, shapes and values: each tensor enters by two sums and an even sample of 512 entries.

    Sums see every weight, the sample sees their order; hashing all bytes of a large model would take seconds.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in named:
        flat = tensor.detach().reshape(-1)
        sums = torch.stack([flat.sum(dtype=torch.float64), flat.abs().sum(dtype=torch.float64)])
        sample = flat[:: max(1, len(flat) // 512)].float()
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(sums.cpu().numpy().tobytes() + sample.cpu().numpy().tobytes())
    return digest.hexdigest()
