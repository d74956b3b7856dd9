"""The time limit of waiting for other processes: those that have not come are named, and all end.

Python cannot leave a collective, and NCCL ends the process where one takes too long. So a thread looks how long this rank has
waited. Past the limit it calls the roll: a thread of each rank that is alive notes at which collective it is. Who leaves no
note does not run, and who is at an earlier collective is late.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from fastlift.engine.ending import NEWS, PARTING_S, TOLD, claim_end, has_told, noted_end, wait_for
from fastlift.errors import UserError
from fastlift.system import launcher
from fastlift.system.printing import printable
from fastlift.training.distributed import World

ROLL_S = 5.0  # for the answers
LOOK_S = 0.2  # between two looks at the notes, and at the clock
_ROLL, _MOST_NAMED = "roll", 8


def listen(world: World, over: threading.Event) -> None:
    """Answer the roll; end a process that goes on after another one's end, perhaps in a collective that will never return."""
    assert world.store is not None
    has_answered = False
    try:
        while True:
            if world.store.check([NEWS]):
                if not has_answered and world.store.check([_ROLL]):
                    _answer(world)
                    has_answered = True
                if (end := noted_end(world)) is not None:
                    break
            if over.wait(LOOK_S):
                return
    except RuntimeError:  # whoever kept the notes has gone: the next collective meets that
        return
    if end.rank != world.rank and not over.wait(PARTING_S):
        sys.stdout.flush()
        os._exit(end.exit_code)


def limit(world: World, over: threading.Event) -> None:
    """End this process, and with it all, where it has waited for the others for longer than it may."""
    waiting = world.collectives.waiting
    while not over.wait(LOOK_S):
        since = waiting.since
        if since is None or time.monotonic() - since <= waiting.limit_s:
            continue
        ending = threading.Thread(target=_end, args=(world,), name="fastlift-roll", daemon=True)
        ending.start()
        ending.join(2 * ROLL_S + PARTING_S)
        if ending.is_alive() and world.rank == (0 if launcher.keeps_notes() else 1):
            keeper = "torchrun, which keeps" if launcher.keeps_notes() else f"{world.named([0])}, which keeps"
            _tell(f"{_waited(world)}: {keeper} the notes of this run, does not answer", world)
        sys.stdout.flush()
        os._exit(1)


def _end(world: World) -> None:
    """Find out who is missing, tell it, once over all ranks, and let the others end."""
    assert world.store is not None
    try:
        message = f"{_waited(world)}: {_who_is_missing(world)}"
        if claim_end(world, UserError(message, exit_code=1)):
            _tell(message, world)
            has_told(world)
        else:
            wait_for(world.store, [TOLD], PARTING_S)
        if world.is_main and not launcher.keeps_notes():
            time.sleep(PARTING_S)  # the notes end with this process: the others read them first
    except RuntimeError:  # whoever kept the notes has gone meanwhile
        return


def _waited(world: World) -> str:
    waiting = world.collectives.waiting
    return f"waited {waiting.limit_s:g} s (--timeout) for other processes, at {waiting.during()}"


def _who_is_missing(world: World) -> str:
    assert world.store is not None
    world.store.set(_ROLL, "")
    world.store.set(NEWS, "")
    notes = {rank: f"roll/{rank}" for rank in range(world.size)}
    wait_for(world.store, list(notes.values()), ROLL_S)
    there = {rank: json.loads(world.store.get(note)) for rank, note in notes.items() if world.store.check([note])}
    furthest = max((answer["number"] for answer in there.values()), default=0)
    told = []
    if silent := [rank for rank in notes if rank not in there]:
        named = f"{world.named(silent[:_MOST_NAMED])}{' and others' if len(silent) > _MOST_NAMED else ''}"
        told.append(f"{named} did not come and did not answer (stopped, or the machine is gone?)")
    late = [rank for rank, answer in there.items() if answer["number"] < furthest]
    told += [f"{world.named([r])} did not come; it runs, and is at {there[r]['during']}" for r in late[:_MOST_NAMED]]
    if not told:
        hosts = ", ".join(sorted(set(world.hosts)))
        told = [f"all ranks came, and yet nothing arrived: does the network between them work ({hosts})?"]
    return "; ".join(told)


def _answer(world: World) -> None:
    assert world.store is not None
    answer = {"number": world.collectives.number, "during": world.collectives.waiting.during()}
    world.store.set(f"roll/{world.rank}", json.dumps(answer))


def _tell(message: str, world: World) -> None:
    way_on = world.collectives.waiting.way_on
    told = message if way_on is None else f"{message}. {way_on()}"
    print(f"fastlift: {printable(told)}", file=sys.stderr, flush=True)
