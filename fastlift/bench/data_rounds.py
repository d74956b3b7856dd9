"""Rounds of ``fastlift bench data``: a process for each way, which work in turn, so that a busy machine slows all of them alike."""

import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastlift.bench.data_ways import WAYS
from fastlift.data.index.header_scan import Progress
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError


@dataclass(frozen=True)
class Row:
    """One way with one number of workers; medians over the rounds."""

    way: str
    workers: int
    images_per_s: float
    cpu_ms_per_image: float  # of all processes of the way
    peak_mib: float  # of the process and its workers together, what they share counted once; 0 where unknown
    rounds_images_per_s: tuple[float, ...]


def alternate(
    combinations: list[tuple[str, int]], files: list[str], crops: TrainCrops, rounds: int, progress: Progress | None
) -> list[Row]:
    """Start a process for every combination, then let them work one after another, round after round."""
    context = multiprocessing.get_context("spawn")
    served: list[tuple[Connection, Any]] = []
    peaks: list[float] = []
    measured: list[list[tuple[float, float]]] = [[] for _ in combinations]
    try:
        for way, workers in combinations:
            ours, theirs = context.Pipe()
            # Not a daemon: torch's DataLoader starts processes of its own.
            process = context.Process(target=_serve, args=(theirs, way, workers, files, crops))
            process.start()
            theirs.close()
            served.append((ours, process))
            peaks.append(_answer(ours, way))  # warmed up
        for number in range(rounds):
            order = range(len(served)) if number % 2 == 0 else reversed(range(len(served)))
            for k in order:
                served[k][0].send("round")
                measured[k].append(_answer(served[k][0], combinations[k][0]))
            if progress:
                progress("rounds", number + 1, rounds)
    finally:
        for connection, process in served:
            connection.close()  # the process sees the end of its orders
            process.join(10)
            if process.is_alive():
                process.kill()
    rows = []
    for (way, workers), peak, results in zip(combinations, peaks, measured, strict=True):
        speed, cpu = (statistics.median(column) for column in zip(*results, strict=True))
        rows.append(Row(way, workers, speed, cpu, peak, tuple(result[0] for result in results)))
    return rows


def _answer(connection: Connection, way: str) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        raise UserError(f"the process that measures {way} died; its message is above", exit_code=1) from None
    if isinstance(answer, str):
        raise UserError(f"{way} failed: {answer}", exit_code=1)
    return answer


def _serve(connection: Connection, way: str, workers: int, files: list[str], crops: TrainCrops) -> None:
    """Body of a measuring process: a round at each order, until the orders end."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        epoch = WAYS[way](files, crops, workers)
        connection.send(_peak_mib(epoch(0)))
        number = 0
        while connection.recv():
            number += 1
            connection.send(_timed(partial(epoch, number), len(files)))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _timed(epoch: Callable[[], Iterator[Any]], images: int) -> tuple[float, float]:
    """images/s and CPU ms an image."""
    cpu, start = _cpu_s(), time.perf_counter()
    for _ in epoch():
        pass
    elapsed = time.perf_counter() - start
    return images / elapsed, (_cpu_s() - cpu) / images * 1000


def _peak_mib(batches: Iterator[Any]) -> float:
    """Largest memory, looked at after every batch, of this process and its workers; 0 where /proc does not tell.

    Proportional set size: what processes share counts once. (``ru_maxrss`` would start at the parent's value.)
    """
    peak = 0.0
    for _ in batches:
        children = [Path(f"/proc/{child.pid}") for child in multiprocessing.active_children()]
        peak = max(peak, sum(_pss_mib(folder) for folder in [Path("/proc/self"), *children]))
    return peak


def _pss_mib(folder: Path) -> float:
    try:
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
