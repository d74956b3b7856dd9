"""Which sample comes when: pure functions of (seed, epoch, step, rank)."""

import numpy as np


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The training order of one epoch: int64 permutation of range(n), from NumPy's Philox keyed by (seed, epoch).

    Sorts raw 64-bit words (stable, so that ties cannot make it depend on the sorting algorithm): unlike
    ``Generator.permutation``, whose stream NumPy may change, this stays the same in all versions.
    """
    words = np.random.Philox(key=np.array([seed & (2**64 - 1), epoch], dtype=np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def training_steps(n: int, batch_size: int, world_size: int = 1, drop_last: bool = False) -> int:
    """Steps of an epoch, equal on all ranks; ``batch_size`` is that of one rank."""
    whole, rest = divmod(n, batch_size * world_size)
    return whole if drop_last or rest == 0 else whole + 1


def training_batch(order: np.ndarray, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """The samples of one rank at one step.

    A step takes the next ``batch_size * world_size`` samples of the order and rank r the r-th part of them, so the
    samples of a step depend on the global batch alone. Where the last step is short, all ranks get the same number:
    up to ``world_size - 1`` samples from the start of the order are repeated (none on one rank).
    """
    start = step * batch_size * world_size
    chunk = order[start : start + batch_size * world_size]
    if len(chunk) % world_size:
        chunk = np.concatenate([chunk, np.resize(order, -len(chunk) % world_size)])
    share = len(chunk) // world_size
    return chunk[rank * share : (rank + 1) * share]


def evaluation_shard(n: int, rank: int = 0, world_size: int = 1) -> range:
    """The samples that one rank evaluates, in order: every sample exactly once over the ranks, lengths within one."""
    return range(n * rank // world_size, n * (rank + 1) // world_size)
