"""What torchrun starts in the tests of elastic runs: ``fastlift`` that records its samples, and kills itself where it is told.

    elastic_worker.py RECORDS train ...

``RECORDS/plan.json`` lists ``kills`` [step, rank, moment]: there a process gets SIGKILL, once over all starts of the run. At its
``gates`` [step, number of processes] they leave ``RECORDS/at-STEP`` and wait until they are asked to stop, or ``RECORDS/go-STEP``
is there. Each process writes a line a step to ``RECORDS/TIME-RANK.jsonl`` before it takes the step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fastlift import cli
from fastlift.engine.loop import Fit
from fastlift.reporting import html
from fastlift.system.signals import StopRequest
from fastlift.training.distributed import Collectives, World
from fastlift.training.step import Learner

MOMENTS = ("before", "exchange", "after")  # the step, its gradients' sum, what follows the update


class Plan:
    """The kills and gates of a run, of which one may be due."""

    def __init__(self, records: Path) -> None:
        self.records, self.rank = records, int(os.environ.get("RANK", "0"))
        plan = json.loads((records / "plan.json").read_text())
        self.kills, self.gates = plan["kills"], plan["gates"]
        self.step = 0

    def at(self, moment: str) -> None:
        """Die here, if that is planned and was not done before."""
        planned = [self.step, self.rank, moment]
        done = self.records / f"killed-{self.step}"
        if planned in self.kills and not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(self, size: int, stop: StopRequest) -> None:
        """At a gate, until it opens."""
        if [self.step, size] in self.gates:
            (self.records / f"at-{self.step}").touch()
            while not stop.asked and not (self.records / f"go-{self.step}").exists():
                time.sleep(0.02)


def start_of(world: World) -> int:
    """A number that the ranks of one start agree on, and that grows from start to start."""
    if world.store is None:
        return 0
    return int(world.store.compare_set("start", "", str(time.time_ns())))


def main(records: Path, arguments: list[str]) -> int:
    """The command with records; the run's page, whose plots take longer than the run, is left out."""
    plan = Plan(records)
    file = records / f"{time.time_ns()}-{plan.rank}.jsonl"
    step_of_fit, step_of_learner, collective = Fit._step, Learner.step, Collectives._do

    def recorded(fit: Fit, batch: Any, stop: Any) -> bool:
        plan.step = fit.global_step + 1
        line = {"step": plan.step, "epoch": fit.epoch, "size": fit.world.size, "samples": batch.indices.tolist()}
        line["start"] = start_of(fit.world)
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        plan.wait(fit.world.size, stop)
        plan.at("before")
        return step_of_fit(fit, batch, stop)

    def taken(learner: Learner, *given: Any, **named: Any) -> bool:
        asked = step_of_learner(learner, *given, **named)
        plan.at("after")
        return asked

    def exchanged(collectives: Collectives, do: Any) -> None:
        plan.at("exchange")
        collective(collectives, do)

    Fit._step, Learner.step, Collectives._do = recorded, taken, exchanged  # type: ignore[method-assign]
    html.render_report = lambda *_, **__: ""  # type: ignore[assignment]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
