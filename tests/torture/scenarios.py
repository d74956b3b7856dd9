"""What is done to a command, and what must hold afterwards: each scenario is a state to start from, a command, and a way on.

Whatever the fault: the command ends by itself with a message (or is killed), the way on that its messages name works, and
what comes out in the end has the bits of a run that nothing happened to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .harness import Commands, Ended

STOPPED_LACKS = ("results.json", "report.html", "checkpoints/epoch-002.safetensors")
TIMES = ("seconds", "images_per_s", "data_wait_share", "time", "timing", "machine", "versions", "evaluate_s")


def data_flags(data: Path) -> tuple[str, ...]:
    """Which data set: the tiny one of ``tests/fixtures.py``."""
    lists = {"train-list": "train.txt", "test-list": "test.txt", "class-names": "class_names.txt"}
    named = [word for flag, name in lists.items() for word in (f"--{flag}", str(data / name))]
    return ("--dataset", "list", "--data-root", str(data), *named)


def model_flags(data: Path) -> tuple[str, ...]:
    """Which backbone: the tiny CLIP of ``tests/fixtures.py``."""
    return ("--model", str(data / "tiny_clip.json"), "--pretrained", str(data / "tiny_clip.safetensors"))


def train_command(data: Path, *more: str) -> tuple[str, ...]:
    """A run of two epochs in ten steps with checkpoints between."""
    settings = (
        "--epochs 2 --batch-size 8 --lr 0.05 --log-steps 2 --checkpoint-steps 2 --device cpu --amp fp32 --compile off"
    )
    loading = "--executor torchvision --workers 1 --output run"
    return ("train", *data_flags(data), *model_flags(data), *settings.split(), *loading.split(), *more)


def contents(run: Path) -> dict[str, Any]:
    """What a run computed, without times: tensors by file and name, events, metrics; and the names of its files."""
    tensors = {
        f"{path.stem}/{name}": tensor
        for path in sorted((run / "checkpoints").glob("epoch-*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run / "results.json").read_text())
    assert (run / "report.html").read_text().rstrip().endswith("</html>")
    names = {
        str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts
    }
    return {
        "tensors": tensors,
        "events": [{key: value for key, value in event.items() if key not in TIMES} for event in events],
        "evaluations": results["evaluations"],
        "names": names,
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Where two runs differ, or "" where they do not."""
    if one["tensors"].keys() != other["tensors"].keys():
        return f"checkpoints {sorted(one['tensors'].keys() ^ other['tensors'].keys())[:4]}"
    for name, tensor in one["tensors"].items():
        if not torch.equal(tensor, other["tensors"][name]):
            return f"tensor {name}"
    return next((key for key in ("events", "evaluations", "names") if one[key] != other[key]), "")


@dataclass(frozen=True)
class Scenario:
    """A command in a state of its folder.

    Attributes:
        prepare: bring the folder into the state.
        command: what is hurt.
        way_on: finish what the command began; returns what is wrong in the end, or "".
        more: of ``Commands.run``.
        within: faults at calls on names that begin with this alone; limits hold everywhere.
    """

    name: str
    prepare: Callable[[Commands], None]
    command: tuple[str, ...]
    way_on: Callable[[Commands, Ended], str]
    more: dict[str, Any] = field(default_factory=dict)
    within: str = ""

    def run(self, commands: Commands, **more: Any) -> Ended:
        """The command in the state that is there."""
        return commands.run(*self.command, **self.more, **more)

    def calls(self, commands: Commands) -> list[str]:
        """The calls by which the command changes files, from a state of its own."""
        self.prepare(commands)
        return commands.calls(*self.command, **self.more)


class Scenarios:
    """All of them on one data set; ``reference`` is what the untouched run computes."""

    def __init__(self, commands: Commands, data: Path, kept: Path) -> None:
        self.data, self._kept = data, kept
        self.train = train_command(data)
        must(commands.run(*self.train))
        self.reference = contents(commands.folder / "run")
        self._keep(commands, "ended")
        self.clear(commands)
        must(commands.run(*self.train, "--seed", "1"))
        self.other = contents(commands.folder / "run")
        self._keep(commands, "other")
        self.clear(commands)

    def all(self) -> list[Scenario]:
        """Each scenario whose calls are hurt one by one."""
        return [
            Scenario("train", self.clear, self.train, self._resumed),
            Scenario("resume", self.stopped, (*self.train, "--resume"), self._resumed),
            Scenario("overwrite", self.old, (*self.train, "--overwrite"), self._overwritten),
            Scenario("evaluate", self.ended, ("evaluate", "run", "--tte", "fivecrop"), self._evaluated),
            Scenario("report", self.ended, ("report", "run"), self._reported),
        ]

    def _keep(self, commands: Commands, name: str) -> None:
        shutil.copytree(commands.folder / "run", self._kept / name)

    def clear(self, commands: Commands) -> None:
        """Nothing is there."""
        for path in commands.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _restore(self, commands: Commands, name: str) -> None:
        self.clear(commands)
        shutil.copytree(self._kept / name, commands.folder / "run")

    def ended(self, commands: Commands) -> None:
        """A run that has ended."""
        self._restore(commands, "ended")

    def old(self, commands: Commands) -> None:
        """A run with another seed that has ended."""
        self._restore(commands, "other")

    def stopped(self, commands: Commands) -> None:
        """As a kill in the second epoch leaves a run."""
        self._restore(commands, "ended")
        run = commands.folder / "run"
        for name in STOPPED_LACKS:
            (run / name).unlink()

    def unharmed(self, commands: Commands, file: str, command: str) -> str:
        """Whether a command that ended well on a run with one changed bit did what it does without; "" or what differs."""
        run = commands.folder / "run"
        if file in ("metrics.jsonl", "results.json"):  # histories for people: nothing is computed from them
            return ""
        if command == "train":
            return same(contents(run), self.reference)
        rows = json.loads((run / "results.json").read_text())["evaluations"]
        return "" if rows["center"] == self.reference["evaluations"]["center"] else "other figures"

    def _resumed(self, commands: Commands, ended: Ended) -> str:
        return self.resumed(commands)

    def resumed(self, commands: Commands, **more: Any) -> str:
        """Train, or go on with the training that is there, to its end; what is wrong with that, or ""."""
        run = commands.folder / "run"
        again = commands.run(*self.train, *(["--resume"] if run.exists() else []), **more)
        if again.code == 2 and not (run / "config.json").exists():  # killed before anything was there to resume
            again = commands.run(*self.train, **more)
        return failed(again) or same(contents(run), self.reference)

    def _overwritten(self, commands: Commands, ended: Ended) -> str:
        run = commands.folder / "run"
        seed = json.loads((run / "config.json").read_text())["run"]["seed"] if run.exists() else None
        if seed == 1:  # the old run is still whole, once its owner has put in order what the kill left
            kept = commands.run(*self.train, "--seed", "1", "--resume")
            return failed(kept) or same(contents(run), self.other)
        return self._resumed(commands, ended)

    def _evaluated(self, commands: Commands, ended: Ended) -> str:
        again = commands.run("evaluate", "run", "--tte", "fivecrop")
        found = contents(commands.folder / "run")
        rows = found["evaluations"]
        lost = [name for name, row in self.reference["evaluations"].items() if rows.get(name) != row]
        return failed(again) or (f"rows lost {lost}" if lost or len(rows) < 2 else "")

    def _reported(self, commands: Commands, ended: Ended) -> str:
        again = commands.run("report", "run")
        return failed(again) or same(contents(commands.folder / "run"), self.reference)


def must(ended: Ended) -> None:
    """Raises RuntimeError where a command did not end well."""
    if ended.code != 0:
        raise RuntimeError(ended.said)


def failed(ended: Ended) -> str:
    """What is wrong with a way on that did not end well, or ""."""
    return "" if ended.code == 0 else f"the way on ended with {ended.code}: {ended.said[-400:]}"


def manners(ended: Ended, killed: bool, number: int = 0) -> str:
    """Whether a command ended as a command should: what is wrong, or "".

    Args:
        killed: it was sent SIGKILL.
        number: of another signal that it was sent.
    """
    if killed:
        return "" if ended.killed else f"not killed, ended with {ended.code}"
    if ended.code is None:
        return "it hung"
    if "Traceback" in ended.said:
        return f"a traceback: {ended.said[-600:]}"
    if ended.code not in (0, 1, 2, 128 + number):
        return f"ended with {ended.code}: {ended.said[-300:]}"
    if ended.code and not ended.said.strip():
        return f"ended with {ended.code} without a word"
    return ""
