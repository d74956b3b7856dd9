"""What one process of a run ends with, noted for the others, so that it ends all and is told once."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch.distributed as dist

from fastlift.errors import UserError
from fastlift.training.distributed import LostCompany, World

PARTING_S = 5.0  # for the others to hear of an end and leave by themselves
NOTING_S = 1.0  # for the note of another's end, which it leaves before the others lose it
END, TOLD = "end", "told"
NEWS = "news"  # there is a note that all look for: one question a rank, however many kinds there are


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
        is_first = bool(world.store.compare_set(END, "", mine).decode() == mine)
        world.store.set(NEWS, "")
        return is_first
    except RuntimeError:
        return world.rank == 1  # the first process kept the notes and was killed: the second tells


def noted_end(world: World, patience: float = 0.0) -> End | None:
    """What ended another process, or this one; waits for so many seconds where nothing is noted yet."""
    assert world.store is not None
    return End(**json.loads(world.store.get(END))) if wait_for(world.store, [END], patience) else None


def has_told(world: World) -> None:
    """What ended the run is told: the others need not wait any longer."""
    assert world.store is not None
    with suppress(RuntimeError):
        world.store.set(TOLD, "")


def exit_code_of(error: BaseException) -> int:
    """What the command line ends with."""
    return error.exit_code if isinstance(error, UserError) else 1


def wait_for(store: dist.Store, notes: list[str], patience: float) -> bool:
    """Whether all of these notes are there, within so many seconds."""
    deadline = time.monotonic() + patience
    while not store.check(notes):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True
