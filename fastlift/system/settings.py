"""Settings of the machine: device, threads, memory, and the seed. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fastlift.settings import MOST_THREADS, SEED, Between, May, Settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceSettings(Settings):
    """What computes."""

    device: Annotated[str, May.CHANGE | May.DIFFER] = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1' ..."""

    def build(self) -> torch.device:
        """The device, which is here and can be used; errors as ``resolve_device``."""
        from fastlift.system.device import resolve_device

        return resolve_device(self.device)


@dataclass(frozen=True)
class ThreadSettings(Settings):
    """How many threads compute."""

    threads: Annotated[int | None, Between(1, MOST_THREADS), May.CHANGE | May.DIFFER] = None
    """Threads that compute (default: one for each core that this process may use). On CPUs rounding depends on it, so a
    resumed run goes on with as many as it had."""

    @contextmanager
    def use(self) -> Iterator[int]:
        """Compute with so many threads meanwhile, or with as many as torch has now; gives the number."""
        import torch

        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield torch.get_num_threads()
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class SeedSettings(Settings):
    """What is random."""

    seed: Annotated[int, SEED] = 0
    """Fixes random initial values, the order of samples, crops and flips; from 0 to 2^63 - 1."""


@dataclass(frozen=True)
class TimeoutSettings(Settings):
    """How long processes wait for each other."""

    timeout: Annotated[float, Between(1, 7 * 86400), May.CHANGE] = 1800.0
    """Seconds that one of several processes waits for the others, before the run ends and names those that did not come.
    Longer than the longest pause of one of them alone, such as writing a checkpoint to slow storage."""


@dataclass(frozen=True)
class MemorySettings(Settings):
    """What is done where memory may not be enough."""

    memory: Annotated[Literal["check", "ignore"], May.CHANGE] = "check"
    """A run that needs more memory than is free is refused before anything large is allocated; 'ignore' tries it."""
