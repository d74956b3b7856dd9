"""A short name for a set of weights, so that a cache or a checkpoint never meets other weights unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

SAMPLES = 512


def weights_fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of names, shapes, dtypes and bits: each tensor enters by the sum of its words and an even sample of entries.

    The sum (of 64-bit words, modulo 2^64) sees every weight and is the same whatever the number of threads; the sample sees
    the weights' order. Hashing all bytes of a large model would take most of a second.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in named:
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        raw = flat.view(torch.uint8).numpy()
        whole = len(raw) // 8 * 8
        total = np.add.reduce(raw[:whole].view(np.uint64), dtype=np.uint64)
        sample = flat[:: max(1, len(flat) // SAMPLES)].contiguous().view(torch.uint8).numpy()
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(total.tobytes() + raw[whole:].tobytes() + sample.tobytes())
    return digest.hexdigest()
