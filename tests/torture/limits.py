"""Commands on real limits: full disks, no inodes left, sizes of files, open files, threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .disks import no_ext4, tmpfs
from .harness import Commands
from .scenarios import Scenario, Scenarios, manners

# Values of each limit, from nothing to more than any command here needs; what a command needs lies between them.
FILE_SIZES = (0, 1, 100, 300, 1000, 2000, 4000, 8000, 16_000, 64_000, 10**9)
OPEN_FILES = tuple(range(14))
THREADS = tuple(range(6))
FREE_INODES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 30)


@dataclass(frozen=True)
class OnFullDisk:
    """A command on a disk with so much room left; afterwards there is room again."""

    scenario: Scenario
    what: str  # pages or inodes
    free: int

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: {self.free} {self.what} left"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        with tmpfs(commands) as disk:
            self.scenario.prepare(commands)
            disk.leave(self.what, self.free)
            ended = self.scenario.run(commands)
            disk.give_back()
            return manners(ended, False) or self.scenario.way_on(commands, ended)


@dataclass(frozen=True)
class UnderLimit:
    """A command whose process may have so much of something; the way on has no limit."""

    scenario: Scenario
    limit: str
    value: int

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: at most {self.value} of {self.limit}"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        self.scenario.prepare(commands)
        ended = self.scenario.run(commands, limits={self.limit: self.value})
        return manners(ended, False) or self.scenario.way_on(commands, ended)


def skipping(scenarios: Scenarios) -> Scenario:
    """A training of several threads that replaces broken images, as none here is."""
    train = scenarios.all()[0]
    return replace(train, name="skip", command=(*train.command, "--bad-images", "skip", "--workers", "4"))


def on_limits(commands: Commands, scenario: Scenario) -> Iterator[OnFullDisk | UnderLimit]:
    """All cases of a scenario."""
    if commands.mounts:
        with tmpfs(commands) as disk:
            scenario.prepare(commands)
            before = disk.used()["pages"]
            scenario.run(commands)
            needed = disk.used()["pages"] - before
        for free in spread(needed):
            yield OnFullDisk(scenario, "pages", free)
        for free in FREE_INODES:
            yield OnFullDisk(scenario, "inodes", free)
    limits = {"FSIZE": FILE_SIZES, "NOFILE": OPEN_FILES, **({"NPROC": THREADS} if os.getuid() == 0 else {})}
    for limit, values in limits.items():
        for value in values:
            yield UnderLimit(scenario, limit, value)


def skipping_nothing(scenarios: Scenarios) -> Iterator[UnderLimit]:
    """No image counts as broken because its file could not be opened."""
    for value in range(20):
        yield UnderLimit(skipping(scenarios), "NOFILE", value)


def spread(needed: int) -> list[int]:
    """From 0 to more than is needed: each of the first few, then in steps that grow."""
    free, chosen = 0, []
    while free <= 1.5 * needed + 8:
        chosen.append(free)
        free += max(1, free // 6)
    return chosen


def left_out(commands: Commands) -> list[str]:
    """What this machine does not allow, and why."""
    missing = [] if commands.mounts else ["full disks: neither unshare --mount nor unshare --user may mount here"]
    missing += [f"failing disks and power cuts: {why}" for why in [no_ext4(commands)] if why]
    return missing + (
        [] if os.getuid() == 0 else ["limits of threads: only root can become a user who runs nothing else"]
    )
