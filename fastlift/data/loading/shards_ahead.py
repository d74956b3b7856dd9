"""Whole shards of a store, fetched into the cache a window before they are read."""

from __future__ import annotations

import numpy as np

from fastlift.data.sampling.stream import Stream
from fastlift.data.stores.url import Url
from fastlift.errors import UserError


class ShardsAhead:
    """For a stream that reads some shards at a time from a store with a cache; for any other it does nothing."""

    def __init__(self, stream: Stream) -> None:
        """Raises UserError where the cache cannot hold two windows of shards."""
        root = stream.index.root
        self._stream = stream
        self._root: Url | None = None
        self._order = np.zeros(0, dtype=np.int64)
        self._windows = np.zeros(0, dtype=np.int64)  # of each sample
        self._next = 0
        if isinstance(root, Url) and root.session.cache and stream.shuffle_shards is not None and stream.shuffle:
            _check_room(stream, root, root.session.cache.most_bytes)
            self._root = root

    def start(self, order: np.ndarray, epoch: int, first_step: int) -> None:
        """An epoch begins, with this order, at this step."""
        if self._root is None:
            return
        self.close()
        self._order, self._next = order, first_step
        self._windows = self._stream.windows(epoch)

    def reach(self, step: int) -> None:
        """The batch of this step comes next: its window's shards and the next one's are on their way from now on."""
        if self._root is None:
            return
        now = self._window(step)
        index = self._stream.index
        assert index.shards is not None
        while self._next < self._stream.steps_per_epoch and self._window(self._next) <= now + 1:
            mine = self._stream.mine(self._order, self._next)
            _, rows = np.unique(index.shards[mine], return_index=True)
            for sample in mine[np.sort(rows)].tolist():
                self._root.session.fetch(self._root.below(index.paths[sample]))
            self._next += 1

    def _window(self, step: int) -> int:
        """That of the first sample of a step."""
        return int(self._windows[self._order[step * self._stream.batch_size]])

    def close(self) -> None:
        """Nothing of what was fetched ahead is needed any more."""
        if self._root is not None:
            self._root.session.close()


def _check_room(stream: Stream, root: Url, most_bytes: int) -> None:
    index, at_a_time = stream.index, stream.shuffle_shards
    assert index.shards is not None
    assert at_a_time is not None
    _, rows = np.unique(index.shards, return_index=True)
    largest = max(root.session.info(root.below(index.paths[int(row)])).size for row in rows)
    needed = (2 * min(at_a_time, len(rows)) + 1) * largest
    if needed > most_bytes and len(rows) > 1:
        raise UserError(
            f"--shuffle-shards {at_a_time} needs room for two windows of shards of up to {largest / 1e9:.3g} GB: "
            f"--data-cache-gb {needed / 1e9:.3g}, or fewer shards at a time"
        )
