"""Disks that fail under a command, for real: one that turns read-only, one that is gone, and power cuts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from .disks import ext4, no_ext4
from .harness import KILL, UNTRIED, Commands, Fault
from .scenarios import Scenario, Scenarios, manners

MOMENTS = 12


@dataclass(frozen=True)
class PowerCut:
    """The power fails at a call: the command is gone, and whatever was not flushed is lost."""

    scenario: Scenario
    at: int
    call: str

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: power cut at {self.at} ({self.call.split('.')[0]})"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        with ext4(commands) as disk:
            self.scenario.prepare(commands)
            disk.settle()
            ended = self.scenario.run(commands, fault=Fault(self.at, KILL))
            if ended.code == 0:
                return UNTRIED  # threads do not write in the same order each time: this time the call was not made
            commands.administer(*disk.failure("gone"))
            disk.repair()
            return manners(ended, True) or self.scenario.way_on(commands, ended)


@dataclass(frozen=True)
class DiskFails:
    """At a random moment the disk turns read-only, or every call on it fails; later it works again."""

    scenario: Scenario
    kind: str
    after_s: float

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: disk {self.kind} after {self.after_s:.3f} s"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        with ext4(commands) as disk:
            self.scenario.prepare(commands)
            disk.settle()
            then = f"import subprocess; subprocess.run({disk.failure(self.kind)!r}, check=True)"
            ended = self.scenario.run(commands, after=self.after_s, then=then)
            disk.repair()
            return manners(ended, False) or self.scenario.way_on(commands, ended)


def failing_disks(commands: Commands, scenario: Scenario, draw: random.Random) -> Iterator[PowerCut | DiskFails]:
    """All cases of a scenario: before each rename and each flush, and at random moments.

    None of one that flushes nothing, as predictions on stdout: what a disk still has to write when it fails is lost.
    """
    calls = scenario.calls(commands)
    if no_ext4(commands) or not any(call.startswith("sync") for call in calls):
        return
    for at, call in enumerate(calls, 1):
        if call.startswith(("rename", "sync")) and call.partition(" ")[2].startswith(scenario.within):
            yield PowerCut(scenario, at, call)
    for _ in range(MOMENTS):
        yield DiskFails(scenario, draw.choice(("read-only", "gone")), draw.uniform(0.0, 2.5))
