"""Contenders timed in turn, round by round: medians and quartiles of the device's time, the host's beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.clock import Clock, Run

LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds a call in each round: the device's and the host's."""

    ms: tuple[float, ...]
    host_ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def to_row(self) -> dict[str, Any]:
        """Medians, quartiles and the number of rounds."""
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive") if len(self.ms) > 1 else self.ms * 3
        return {
            "ms": _short(self.median),
            "quartiles_ms": [_short(low), _short(high)],
            "host_ms": _short(statistics.median(self.host_ms)),
            "rounds": len(self.ms),
        }


def alternated(
    clock: Clock,
    contenders: Mapping[str, Run],
    rounds: int,
    *,
    warmup: int = 2,
    calls: int = 1,
    ahead: bool = False,
    until: Callable[[], float] = lambda: float("inf"),
) -> dict[str, Times]:
    """Times of each contender in ``rounds`` rounds, in turn, after ``warmup`` calls of each.

    Args:
        calls, ahead: see ``Clock.time``.
        until: gives the seconds that are left; rounds end early where they would not last, but not before the third.
    """
    for run in contenders.values():
        for _ in range(warmup):
            run()
    clock.wait()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    longest = 0.0
    for index in range(rounds):
        if index >= LEAST_ROUNDS and until() < 2 * longest:
            break
        started = time.perf_counter()
        for name, run in contenders.items():
            found[name].append(clock.time(run, calls, ahead))
        longest = max(longest, time.perf_counter() - started)
    return {
        name: Times(tuple(ms for ms, _ in values), tuple(host for _, host in values)) for name, values in found.items()
    }


def _short(ms: float) -> float:
    """Five digits that count: files are to be small."""
    return float(f"{ms:.5g}")
