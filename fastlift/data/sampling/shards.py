"""Orders that read few shards at a time, and which shards they come to.

A full shuffle asks for all shards in every batch. Here an epoch goes through windows: the shards in a random order, K to a
window, and the samples of a window in a random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fastlift.data.sampling.philox import in_a_row
from fastlift.settings import Between, Settings


@dataclass(frozen=True)
class ShardOrderSettings(Settings):
    """In which order the images of shards are read."""

    shuffle_shards: Annotated[int | None, Between(1)] = None
    """Read so many shards (of a pack or webdataset) at a time, in a random order, their images shuffled together; default: all."""


def windows_of(shards: np.ndarray, seed: int, epoch: int, shards_at_a_time: int) -> np.ndarray:
    """The window of each sample in an epoch, a function of the arguments: int64 [N] from the samples' shards, int [N].

    Shards are put in the order of random words from NumPy's Philox keyed by (seed, epoch), whose counter begins far from that
    of the samples' words, and then counted off.
    """
    count = int(shards.max(initial=-1)) + 1
    place = np.empty(count, dtype=np.int64)
    place[np.argsort(in_a_row(count, seed, epoch, 1), kind="stable")] = np.arange(count)
    return place[shards] // shards_at_a_time


def by_window(order: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """An order of all samples, int64 [N], with those of earlier windows first and else as it was."""
    return order[np.argsort(windows[order], kind="stable")]


def sorted_by_shard(shards: np.ndarray, together: int = 1) -> np.ndarray:
    """The places of a batch, int64 [B], with those of a shard together; ``shards`` are those of its samples, int [B].

    So many neighbours as ``together`` stay so, and are where the first of them belongs; a short last group stays last.
    """
    whole = len(shards) // together * together
    first = np.argsort(shards[:whole:together], kind="stable")
    groups = np.arange(whole).reshape(-1, together)[first]
    return np.append(groups.reshape(-1), np.arange(whole, len(shards)))
