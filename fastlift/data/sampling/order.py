"""Which sample comes when: pure functions of (seed, epoch, step, rank)."""

import numpy as np


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The training order of one epoch: int64 permutation of range(n), from NumPy's Philox keyed by (seed, epoch).

    Sorts raw 64-bit words (stable, so that ties cannot make it depend on the sorting algorithm): unlike
    ``Generator.permutation``, whose stream NumPy may change, this stays the same in all versions.
    """
    words = np.random.Philox(key=np.array([seed & (2**64 - 1), epoch], dtype=np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def share(n: int, rank: int = 0, world_size: int = 1) -> range:
    """Which of n things one rank takes: each exactly once over the ranks, neighbours together, lengths within one."""
    return range(n * rank // world_size, n * (rank + 1) // world_size)


def steps_in(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches of n samples, a last short one included unless it is dropped."""
    whole, rest = divmod(n, batch_size)
    return whole if drop_last or rest == 0 else whole + 1


def training_batch(order: np.ndarray, step: int, batch_size: int) -> np.ndarray:
    """The samples of one step over all ranks: the next ``batch_size`` of the order; fewer at its end.

    Ranks share them by ``share``, so an epoch is the same whatever their number, and every sample comes once in it.
    """
    return order[step * batch_size : (step + 1) * batch_size]
