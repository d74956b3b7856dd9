"""Every place at which something can go wrong, as a list of cases, and how one is performed."""

from __future__ import annotations

import errno
import itertools
import random
import shlex
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from .failing import failing_disks
from .harness import FAIL, KILL, TEAR, UNTRIED, Commands, Ended, Fault
from .limits import on_limits, skipping_nothing
from .outputs import Outputs
from .scenarios import STOPPED_LACKS, Scenario, Scenarios, manners

ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "read-only": errno.EROFS, "broken": errno.EIO}
KINDS = {
    "kill": Fault(action=KILL),
    "torn": Fault(action=TEAR),
    **{f"{name} once": Fault(action=FAIL, error=error) for name, error in ERRORS.items()},
    **{f"{name} from then on": Fault(action=FAIL, error=error, lasting=True) for name, error in ERRORS.items()},
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL)
FLIPS_A_FILE = 24


class Case(Protocol):
    """One thing to do; ``perform`` returns what is wrong afterwards, or "" or ``UNTRIED``."""

    @property
    def name(self) -> str: ...
    def perform(self, commands: Commands, scenarios: Scenarios) -> str: ...


@dataclass(frozen=True)
class AtCall:
    """A command is hurt at one of the calls by which it changes files."""

    scenario: Scenario
    at: int
    call: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: {self.kind} at {self.at} ({self.call.split('.')[0]})"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        self.scenario.prepare(commands)
        fault = replace(KINDS[self.kind], at=self.at)
        ended = self.scenario.run(commands, fault=fault)
        if fault.action != FAIL and ended.code == 0:
            return UNTRIED  # threads do not write in the same order each time: this time the call was not made
        return manners(ended, fault.action != FAIL) or self.scenario.way_on(commands, ended)


@dataclass(frozen=True)
class AtMoment:
    """A signal at a random moment of a training."""

    scenario: Scenario
    number: signal.Signals
    after_s: float

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: {self.number.name} after {self.after_s:.3f} s"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        self.scenario.prepare(commands)
        ended = self.scenario.run(commands, after=self.after_s, signal=int(self.number))
        if ended.code == 0:
            return UNTRIED
        return manners(ended, self.number == signal.SIGKILL, self.number) or self.scenario.way_on(commands, ended)


@dataclass(frozen=True)
class Flip:
    """One bit of one file of a run is another: noticed, or without any effect."""

    file: str
    place: float
    bit: int
    command: str

    @property
    def name(self) -> str:
        return f"flip: bit {self.bit} at {self.place:.5f} of {self.file}, then {self.command.split()[0]}"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        scenarios.stopped(commands) if self.command == "train" else scenarios.ended(commands)
        path = commands.folder / "run" / self.file
        data = bytearray(path.read_bytes())
        data[int(self.place * len(data))] ^= 1 << self.bit
        path.write_bytes(data)
        arguments = (*scenarios.train, "--resume") if self.command == "train" else tuple(shlex.split(self.command))
        ended = commands.run(*arguments)
        return manners(ended, False) or ("" if ended.code else scenarios.unharmed(commands, self.file, arguments[0]))


@dataclass(frozen=True)
class AtOnce:
    """A second command in a folder where a first one works."""

    scenario: Scenario
    second: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: {self.second[0]} {self.second[-1]} beside it"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        self.scenario.prepare(commands)
        first = commands.beside(self.scenario.command, self.second, commands.folder / "run" / "metrics.jsonl")
        second = first.beside
        assert second is not None
        wrong = manners(first, False) or manners(second, False)
        if second.code == 0 and self.second[0] == "train":
            wrong = wrong or "the second one was let in"
        return wrong or self.scenario.way_on(commands, first)


@dataclass(frozen=True)
class Vanishes:
    """The run's folder is gone in the middle of the training."""

    scenario: Scenario
    after: str

    @property
    def name(self) -> str:
        return f"{self.scenario.name}: its folder vanishes once {self.after} is there"

    def perform(self, commands: Commands, scenarios: Scenarios) -> str:
        self.scenario.prepare(commands)
        run = commands.folder / "run"
        gone = f"import shutil; shutil.rmtree({str(run)!r}, ignore_errors=True)"
        ended = self.scenario.run(commands, after=str(run / self.after), then=gone)
        return manners(ended, False) or ("" if ended.code != 0 else "it ended well, with nothing to show")


def every_case(commands: Commands, scenarios: Scenarios, seed: int, of: Collection[str] = ()) -> Iterator[Case]:
    """All cases, or those of some scenarios by their names; what is random in them comes from the seed."""
    draw = random.Random(seed)
    for scenario in (*scenarios.all(), *Outputs(commands, scenarios).all()):
        if not of or scenario.name in of:
            yield from at_calls(commands, scenario)
            yield from on_limits(commands, scenario)
            yield from failing_disks(commands, scenario, random.Random(f"{seed} {scenario.name}"))
    if not of or "skip" in of:
        yield from skipping_nothing(scenarios)
    if not of:
        yield from of_a_run(commands, scenarios, draw)


def at_calls(commands: Commands, scenario: Scenario) -> Iterator[AtCall]:
    """A kill, half a write and an error at each call by which the scenario's command changes files."""
    errors = itertools.cycle([kind for kind in KINDS if KINDS[kind].action == FAIL])
    for at, call in enumerate(scenario.calls(commands), 1):
        if not call.partition(" ")[2].startswith(scenario.within):
            continue
        yield AtCall(scenario, at, call, "kill")
        if call.startswith("write"):
            yield AtCall(scenario, at, call, "torn")
        yield AtCall(scenario, at, call, next(errors))


def of_a_run(commands: Commands, scenarios: Scenarios, draw: random.Random) -> Iterator[Case]:
    """Signals at random moments, two at once, a folder that vanishes, flipped bits."""
    train, resume = scenarios.all()[:2]
    for _ in range(100):
        yield AtMoment(draw.choice((train, resume)), draw.choice(SIGNALS), draw.uniform(0.0, 2.5))
    for change in ("--resume", "--overwrite"):
        yield AtOnce(train, (*scenarios.train, change))
        yield AtOnce(resume, (*scenarios.train, change))
    yield AtOnce(train, ("evaluate", "run"))
    yield AtOnce(train, ("report", "run"))
    for after in ("config.json", "metrics.jsonl", "checkpoints/epoch-001.safetensors", "results.json"):
        yield Vanishes(train, after)
    scenarios.ended(commands)
    yield from flips(commands.folder / "run", draw)


def flips(run: Path, draw: random.Random) -> Iterator[Case]:
    """Bits of every file of a run that something reads."""
    files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    for file in files:
        if file.startswith(("tensorboard", ".")) or file == "report.html":
            continue  # written for others; fastlift reads neither
        for command in ("train", "evaluate run", "report run", f"predict run {run.parents[1]}/data/test/class0/0.jpg"):
            if command == "train" and file in STOPPED_LACKS:
                continue
            for _ in range(FLIPS_A_FILE):
                yield Flip(file, draw.random(), draw.randrange(8), command)


def perform(case: Case, commands: Commands, scenarios: Scenarios) -> str:
    """What is wrong after a case, or ""; an error of the checking itself is wrong too."""
    try:
        return case.perform(commands, scenarios)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


__all__ = [
    "UNTRIED",
    "AtCall",
    "AtMoment",
    "AtOnce",
    "Case",
    "Ended",
    "Flip",
    "Vanishes",
    "every_case",
    "flips",
    "perform",
]
