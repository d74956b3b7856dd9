"""The tables of all shards of a split: made with threads and processes, a file of the cache each, valid while their shard is the same.

Parsing holds the interpreter lock: of shards in the page cache eight threads make 130 us an image, one makes 40, and two
processes 20. So threads are for stores, and for disks and network shares that are slow to answer. For shards on disks there are
helpers, a process a CPU, which write tables to the cache, where this one finds them. They are this module, started as
``python -m fastlift.data.datasets.shard_tables ROOT CACHE START`` with the shards' names on stdin; nobody waits for them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
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
from fastlift.system.modules import start_module

SHARD_FORMAT = "fastlift-shard-1"
_SHARDS_A_HELPER = 4
_SLOW = 2.0  # times the CPU's time that a shard takes


def tables_of(
    root: Path | Url, shards: list[str], cache: Path, rescan: bool, problems: Problems, progress: Progress | None
) -> list[ShardTable]:
    """The table of each shard, in their order; what is wrong with them is added to the problems.

    Where several processes index at once, each begins at another shard, and takes over what others have written to the
    cache meanwhile: on one machine they share the work, without waiting for each other.

    Raises:
        UserError: a shard that is not there.
    """
    found: dict[int, tuple[ShardTable, list[str]]] = {}
    start = len(shards) * launcher.rank() // launcher.processes()
    with _helpers(root, shards, cache, start, rescan):
        for number, one in _made(root, shards, cache, start, rescan):
            found[number] = one
            if progress:
                progress(f"shards of {root}", len(found), len(shards))
    for number, shard in enumerate(shards):
        for problem in found[number][1]:
            problems.add(f"{root / shard}: {problem}")
    return [found[number][0] for number in range(len(shards))]


def _made(
    root: Path | Url, shards: list[str], cache: Path, start: int, rescan: bool
) -> Iterator[tuple[int, tuple[ShardTable, list[str]]]]:
    """The table of each shard with its number, from one of them on and round the end."""
    first, *others = [*range(start, len(shards)), *range(start)]
    clock, cpu = time.perf_counter(), time.thread_time()
    yield first, _table(root, shards[first], cache, rescan)
    if not isinstance(root, Url) and time.perf_counter() - clock < _SLOW * (time.thread_time() - cpu):
        yield from ((number, _table(root, shards[number], cache, rescan)) for number in others)
        return
    with ThreadPoolExecutor(min(16, 4 * cpus())) as pool:
        yield from zip(others, pool.map(lambda n: _table(root, shards[n], cache, rescan), others), strict=True)


@contextlib.contextmanager
def _helpers(root: Path | Url, shards: list[str], cache: Path, start: int, rescan: bool) -> Iterator[None]:
    """Meanwhile other processes make tables too, each from another shard on, where shards on a disk are many."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        with contextlib.suppress(OSError):  # no more processes, or memory: this one makes all
            if not isinstance(root, Url) and not rescan:
                several = min(cpus(), len(shards) // _SHARDS_A_HELPER)
                for number in range(1, several):
                    first = (start + len(shards) * number // several) % len(shards)
                    started.append(start_module(__spec__.name, os.fspath(root), os.fspath(cache), str(first)))
                    _tell(started[-1], shards)
        yield
    finally:
        for process in started:
            with process:  # closes its pipes, and waits for it
                process.kill()


def _tell(process: subprocess.Popen[bytes], shards: list[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # one that ended at once helps with nothing
        process.stdin.write(b"\0".join(map(os.fsencode, shards)))


def help_with(root: Path, cache: Path, start: int, shards: list[str]) -> None:
    """Write the tables of all shards that the cache lacks, as long as whoever asked lives; what is wrong is theirs to tell."""
    asked_by = os.getppid()
    with contextlib.suppress(UserError):
        for _ in _made(root, shards, cache, start, rescan=False):
            if os.getppid() != asked_by:
                return


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


if __name__ == "__main__":
    root_given, cache_given, start_given = sys.argv[1:]
    names = [os.fsdecode(name) for name in sys.stdin.buffer.read().split(b"\0")]
    help_with(Path(root_given), Path(cache_given), int(start_given), names)
