"""How the processes of a run meet and part: what one ends with ends all, told once.

Processes leave notes for each other in torch's store, which torchrun or the first of them keeps. Notes are JSON, no pickle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch.distributed as dist

from fastlift.engine.ending import NOTING_S, PARTING_S, TOLD, claim_end, exit_code_of, has_told, noted_end, wait_for
from fastlift.engine.meeting import meet
from fastlift.engine.time_limit import limit, listen
from fastlift.system import launcher
from fastlift.system.signals import Interrupted, Outlasting, Signalled
from fastlift.training.distributed import LostCompany, TimeLimit, World

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
    over, theirs, threads = threading.Event(), dist.is_initialized(), []
    for look in (listen, limit):
        own = replace(world, store=world.store.clone())  # a question to a store waits for the one before
        threads.append(threading.Thread(target=look, args=(own, over), name=f"fastlift-{look.__name__}", daemon=True))
        threads[-1].start()
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
            for thread in threads:  # one that is inside of torch while Python ends aborts the process
                thread.join(PARTING_S)


def _part(world: World) -> None:
    """Leave the others; the first process waits until they have read the notes, where it keeps them itself."""
    assert world.store is not None
    with suppress(RuntimeError):  # whoever kept the notes has gone
        world.store.set(f"left/{world.rank}", "")
        if world.is_main and not launcher.keeps_notes():
            wait_for(world.store, [f"left/{rank}" for rank in range(world.size)], PARTING_S)


def end_together(world: World, error: BaseException, tell: Callable[[BaseException, str], int]) -> int:
    """The exit code of a process that ends with ``error``: the first one to end tells why, the others wait until it has.

    Args:
        tell: gets the error, and whose it is, in words that begin a message; "" where it is everybody's.
    """
    assert world.store is not None
    if claim_end(world, error):
        try:
            return tell(error, _whose(world, error))
        finally:
            has_told(world)
    try:
        with suppress(RuntimeError):
            world.store.set(f"failed/{world.rank}", str(error))
        wait_for(world.store, [TOLD], PARTING_S)
        end = noted_end(world) if isinstance(error, LostCompany) else None
    except RuntimeError:
        end = None
    return exit_code_of(error) if end is None else end.exit_code


def _whose(world: World, error: BaseException) -> str:
    """The ranks that an error is of, for the message; nothing where all make the same mistake, or it is of none in particular."""
    assert world.store is not None
    if isinstance(error, (LostCompany, TimeLimit, Interrupted, Signalled)):
        return ""
    same, others = {world.rank}, set(range(world.size)) - {world.rank}
    deadline = time.monotonic() + NOTING_S
    with suppress(RuntimeError):
        while others and time.monotonic() < deadline:
            for rank in [rank for rank in others if world.store.check([f"failed/{rank}"])]:
                others.remove(rank)
                if world.store.get(f"failed/{rank}").decode() != str(error):
                    return f"{world.named([world.rank])}: "
                same.add(rank)
            time.sleep(0.02)
    return f"{world.named(sorted(same))}: " if others else ""
