"""Two clocks with one face: events of a GPU, and the host's time where there is none (a rehearsal)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

Run = Callable[[], Any]


class Clock(Protocol):
    """Times work that is launched by the host and done by a device."""

    device: torch.device

    def time(self, run: Run, calls: int, ahead: bool) -> tuple[float, float]:
        """(milliseconds of the device, milliseconds of the host) a call.

        Args:
            run: what is timed; it does not wait for the device.
            calls: how often it is called between start and end.
            ahead: the device is kept busy beforehand until the host has launched everything, so that its time does not
                hold the host's, and its caches hold nothing of the operands. False times what a program would see: the
                longer of the two.
        """
        ...

    def wait(self) -> None:
        """Until the device has done everything."""
        ...


class HostClock:
    """A CPU does its work while it is called: both times are the host's."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def time(self, run: Run, calls: int, ahead: bool) -> tuple[float, float]:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        ms = 1e3 * (time.perf_counter() - start) / calls
        return ms, ms

    def wait(self) -> None:
        return None


class EventClock:
    """Events on the current stream of the current GPU, about 0.5 microseconds fine."""

    BUSY = 8192  # side of the products that keep the device busy: 1.4 ms each on an H100, and larger than its caches

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._factor: torch.Tensor | None = None
        self._busy_ms = 0.0

    def time(self, run: Run, calls: int, ahead: bool) -> tuple[float, float]:
        busy = self._products_for(run, calls) if ahead else 0
        torch.cuda.synchronize()
        for _ in range(busy):
            self._keep_busy()
        started = time.perf_counter()
        self._start.record()
        for _ in range(calls):
            run()
        self._end.record()
        host_ms = 1e3 * (time.perf_counter() - started)
        torch.cuda.synchronize()
        return self._start.elapsed_time(self._end) / calls, host_ms / calls

    def wait(self) -> None:
        torch.cuda.synchronize()

    def _products_for(self, run: Run, calls: int) -> int:
        """How many products keep the device busy for longer than the host takes for its calls, by one call now."""
        if self._factor is None:
            self._factor = torch.ones(self.BUSY, self.BUSY, device=self.device, dtype=torch.float16)
            self._out = torch.empty_like(self._factor)
            self._keep_busy()
            self._busy_ms, _ = self.time(self._keep_busy, 3, ahead=False)
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        host_ms = 1e3 * (time.perf_counter() - started)
        return min(50, 1 + int(2 * calls * host_ms / self._busy_ms))

    def _keep_busy(self) -> None:
        assert self._factor is not None
        torch.mm(self._factor, self._factor, out=self._out)


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return EventClock() if device.type == "cuda" else HostClock()
