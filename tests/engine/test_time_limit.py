"""A rank that does not come: it is named, with its machine and the step, and all others end."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files
from ranks import command, on_hosts, told
from several import Group, Outcome

from fastlift import cli
from fastlift.engine import time_limit
from fastlift.engine.agreement import agree, first_does
from fastlift.engine.loop import Fit
from fastlift.engine.processes import company
from fastlift.reporting import html
from fastlift.training.distributed import barrier, open_group


def hanging(arguments: list[str], rank: int, step: int, how: str) -> None:
    """The command; in a step one rank is stopped, or waits for what never comes and looks at the notes seldom."""
    plain = Fit._step

    def hangs(fit: Fit, *given: Any) -> bool:
        if fit.global_step + 1 == step:  # only now: processes start apart from each other
            fit.world.collectives.waiting.limit_s = 3.0 if how == "late" and fit.world.is_main else 1.5
        if fit.global_step + 1 == step and fit.world.rank == rank:
            os.kill(os.getpid(), signal.SIGSTOP) if how == "stopped" else time.sleep(300)
        return plain(fit, *given)

    on_hosts()
    Fit._step, html.render_report = hangs, lambda *_, **__: ""  # type: ignore
    time_limit.ROLL_S = 4.0
    time_limit.LOOK_S = 1.0 if how == "late" and int(os.environ["RANK"]) == rank else 0.2
    sys.exit(cli.main(arguments))


def ended(group: Group, stopped: int | None = None) -> list[Outcome]:
    """What the ranks end with, once all but the stopped one have; that one goes on then."""
    for rank, process in enumerate(group.processes):
        if rank != stopped:
            process.join(60)
    if stopped is not None:
        assert group.processes[stopped].is_alive()
        os.kill(group.processes[stopped].pid or 0, signal.SIGCONT)
    return group.join(60)


@pytest.mark.parametrize(
    ("rank", "how", "said"),
    [
        (1, "stopped", "rank 1 (node-1) did not come and did not answer (stopped, or the machine is gone?)"),
        (2, "late", "rank 2 (node-2) did not come; it runs, and is at step 6"),
        (0, "stopped", "rank 0 (node-0), which keeps the notes of this run, does not answer"),
    ],
)
def test_the_rank_that_hangs_is_named(
    rank: int, how: str, said: str, tiny_clip: Files, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = command(tiny_clip, tiny_data, run, "--checkpoint-steps", "1")
    outcomes = ended(
        Group(tmp_path / "said", 3, hanging, (arguments, rank, 6, how)), rank if how == "stopped" else None
    )
    others = [outcome for number, outcome in enumerate(outcomes) if number != rank]
    assert [outcome.code for outcome in others] == [1, 1]
    (message,) = told(others)
    assert re.match(r"fastlift: waited (1.5|3) s \(--timeout\) for other processes, at step 6: ", message)
    assert f"at step 6: {said}. " in message
    assert "(the last: step-00000005.safetensors); it goes on with: fastlift train --resume --output" in message
    assert outcomes[rank].code not in (0, None)


def notes(what: str) -> float:
    """How long a rank waited, where the first one's note comes late, or the last one's never."""
    on_hosts()
    with company() as world:
        world.collectives.waiting.limit_s = 0.5
        began = time.monotonic()
        if what == "long work":
            first_does(world, lambda: time.sleep(2.0))
        elif world.rank == world.size - 1:
            time.sleep(60)
        else:
            agree(world, {"x": 1})
        return time.monotonic() - began


def test_a_note_that_does_not_come(tmp_path: Path) -> None:
    outcomes = Group(tmp_path, 3, notes, ("a note",)).join()
    assert [outcome.code for outcome in outcomes] == [1, 1, 1]  # the last is ended where it is
    said = outcomes[0].err + outcomes[1].err  # the one that is second hears of the other's end
    assert "TimeLimit: waited 0.5 s (--timeout) for other processes, at the start: rank 2 (node-2) did not come" in said


def test_long_work_of_the_first_process_is_waited_for(tmp_path: Path) -> None:
    outcomes = Group(tmp_path, 2, notes, ("long work",)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    # The limit is 0.5 s, the work takes 2 s; the second begins a moment after the first.
    assert all(outcome.value > 1.0 for outcome in outcomes)


def all_there() -> None:
    """The first rank's next collective is another one than the others': all are in it, and none ends."""
    import torch
    import torch.distributed as dist

    time_limit.ROLL_S = 4.0
    with company() as world:
        world.collectives.waiting.limit_s = 1.0
        open_group(world, torch.device("cpu"))
        barrier(world)
        tensor = torch.zeros(3)
        world.collectives((lambda: dist.recv(tensor, 1)) if world.is_main else (lambda: dist.recv(tensor, 0)))
    sys.exit(0)


def test_ranks_that_wait_for_each_other(tmp_path: Path) -> None:
    outcomes = Group(tmp_path, 2, all_there, ()).join()
    assert [outcome.code for outcome in outcomes] == [1, 1]
    (message,) = told(outcomes)
    assert "all ranks came, and yet nothing arrived: does the network between them work" in message
