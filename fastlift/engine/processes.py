"""How the processes of a run meet and part: what one ends with ends all, told once.

Processes leave notes for each other in torch's store, which torchrun or the first of them keeps. Notes are JSON, no pickle.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

import torch.distributed as dist

from fastlift.engine.meeting import meet
from fastlift.errors import UserError
from fastlift.system import launcher
from fastlift.system.signals import Outlasting
from fastlift.training.distributed import LostCompany, World

PARTING_S = 5.0  # for the others to hear of an end and leave by themselves
NOTING_S = 1.0  # for the note of another's end, which it leaves before the others lose it
END, _TOLD = "end", "told"
_met: World | None = None


@contextmanager
def company() -> Iterator[World]:
    """The processes that torchrun describes in the environment; one process without it. Entered again inside, it is the same.

    An exception that leaves it is noted for the others, and those that do not leave within seconds are ended. A first signal
    that nothing inside waits for is ignored: what has ended the run is told, and the process ends by itself.

    Raises:
        UserError: not all of the processes have come.
    """
    global _met
    if _met is not None or launcher.processes() == 1:
        yield _met or World()
        return
    _met = world = meet()
    assert world.store is not None
    over, theirs, watching = threading.Event(), dist.is_initialized(), replace(world, store=world.store.clone())
    threading.Thread(target=_watch, args=(watching, over), name="fastlift-company", daemon=True).start()
    with Outlasting():
        try:
            yield world
        except (Exception, KeyboardInterrupt) as error:
            claim_end(world, error)
            raise
        finally:
            _met = None
            if dist.is_initialized() and not theirs:
                dist.destroy_process_group()
            _part(world)
            over.set()


def _part(world: World) -> None:
    """Leave the others; the first process waits until they have read the notes, where it keeps them itself."""
    assert world.store is not None
    with suppress(RuntimeError):  # whoever kept the notes has gone
        world.store.set(f"left/{world.rank}", "")
        if world.is_main and not launcher.keeps_notes():
            _wait_for(world.store, [f"left/{rank}" for rank in range(world.size)], PARTING_S)


def _wait_for(store: dist.Store, notes: list[str], patience: float) -> bool:
    """Whether all of these notes are there, within so many seconds."""
    deadline = time.monotonic() + patience
    while not store.check(notes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass(frozen=True)
class End:
    """What ended the run: of which rank, with which exit code."""

    rank: int
    exit_code: int
    message: str


def claim_end(world: World, error: BaseException) -> bool:
    """Note what ends this process, for the others; whether it is the first to end, so that it is the one to tell why."""
    assert world.store is not None
    try:
        if isinstance(error, LostCompany) and noted_end(world, patience=NOTING_S) is not None:
            return False
        mine = json.dumps(asdict(End(world.rank, exit_code_of(error), str(error))))
        return bool(world.store.compare_set(END, "", mine).decode() == mine)
    except RuntimeError:
        return world.rank == 1  # the first process kept the notes and was killed: the second tells


def noted_end(world: World, patience: float = 0.0) -> End | None:
    """What ended another process, or this one; waits for so many seconds where nothing is noted yet."""
    assert world.store is not None
    return End(**json.loads(world.store.get(END))) if _wait_for(world.store, [END], patience) else None


def exit_code_of(error: BaseException) -> int:
    """What the command line ends with."""
    return error.exit_code if isinstance(error, UserError) else 1


def end_together(world: World, error: BaseException, tell: Callable[[BaseException], int]) -> int:
    """The exit code of a process that ends with ``error``: the first one to end tells why, the others wait until it has."""
    assert world.store is not None
    if claim_end(world, error):
        try:
            return tell(error)
        finally:
            with suppress(RuntimeError):
                world.store.set(_TOLD, "")
    try:
        _wait_for(world.store, [_TOLD], PARTING_S)
        end = noted_end(world) if isinstance(error, LostCompany) else None
    except RuntimeError:
        end = None
    return exit_code_of(error) if end is None else end.exit_code


def _watch(world: World, over: threading.Event) -> None:
    """End a process that goes on after another one's end, perhaps in the middle of a collective that will never return."""
    try:
        while (end := noted_end(world)) is None:
            if over.wait(0.2):
                return
    except RuntimeError:  # whoever kept the notes has gone: the next collective meets that
        return
    if end.rank != world.rank and not over.wait(PARTING_S):
        sys.stdout.flush()
        os._exit(end.exit_code)
