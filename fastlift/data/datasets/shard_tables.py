"""The tables of all shards of a split: made with threads, a file of the cache each, valid while their shard is the same."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastlift.data.index.columns import cached_columns, read_columns, write_columns
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.problems import Problems
from fastlift.data.index.shards import KINDS, ShardTable, scan_shard
from fastlift.data.stores.random_access import opened
from fastlift.data.stores.url import Url
from fastlift.errors import UserError
from fastlift.system import launcher
from fastlift.system.machine import cpus

SHARD_FORMAT = "fastlift-shard-1"


def tables_of(
    root: Path | Url, shards: list[str], cache: Path, rescan: bool, problems: Problems, progress: Progress | None
) -> list[ShardTable]:
    """The table of each shard, in their order; what is wrong with them is added to the problems.

    Where several processes index at once, each begins at another shard, and takes over what others have written to the
    cache meanwhile: on one machine they share the work, without waiting for each other.

    Raises:
        UserError: a shard that is not there.
    """
    start = len(shards) * launcher.rank() // launcher.processes()
    order = [*range(start, len(shards)), *range(start)]
    found: dict[int, tuple[ShardTable, list[str]]] = {}
    # Threads hide the latency of stores, disks and network shares; the parsing itself holds the interpreter lock.
    with ThreadPoolExecutor(min(16, 4 * cpus())) as pool:
        made = pool.map(lambda number: _table(root, shards[number], cache, rescan), order)
        for done, (number, one) in enumerate(zip(order, made, strict=True), start=1):
            found[number] = one
            if progress:
                progress(f"shards of {root}", done, len(shards))
    for number, shard in enumerate(shards):
        for problem in found[number][1]:
            problems.add(f"{root / shard}: {problem}")
    return [found[number][0] for number in range(len(shards))]


def _table(root: Path | Url, shard: str, cache: Path, rescan: bool) -> tuple[ShardTable, list[str]]:
    with opened(root / shard) as file:
        kept = cached_columns(cache, "shards", SHARD_FORMAT, root, os.fsencode(f"{shard}\0{file.state}"))
        if kept.is_file() and not rescan:
            with contextlib.suppress(ValueError):  # damaged: made again
                return ShardTable.of(read_columns(kept, KINDS)), []
        try:
            table, problems = scan_shard(file.size, file.read)
        except OSError as error:
            raise UserError(f"{root / shard} cannot be read ({error.strerror})", exit_code=1) from error
    if not problems:
        with contextlib.suppress(OSError):
            write_columns(kept, table.columns())
    return table, problems
