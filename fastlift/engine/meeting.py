"""How the processes of a run find each other: anew for each start, also where torchrun starts them again.

torchrun keeps one store as long as it lives, and its variables do not number the starts: a node that joins starts all again
without another TORCHELASTIC_RESTART_COUNT. So the notes of a start lie under a name that its first process draws, which it
hands to those alone that have just asked for it.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from fastlift.errors import UserError
from fastlift.system import launcher
from fastlift.system.library_output import native_output_shut
from fastlift.training.distributed import World

MEETING_S = 300.0  # for all processes to start
_SILENT_S = 30.0  # beyond that, for what does not answer at all
_numbers = itertools.count()


def meet() -> World:
    """This process among those that have started with it.

    Raises:
        UserError: not all of them have come; or where they are to meet, another program is, or nothing.
    """
    rank, size, deadline = launcher.rank(), launcher.processes(), time.monotonic() + MEETING_S
    with native_output_shut(1, 2):  # torch prints the frames of its own code before it gives up
        store = _within(MEETING_S, _connect)
    # The next run of these processes has notes of its own.
    notes = dist.PrefixStore(f"fastlift/{next(_numbers)}", store)
    try:
        start, hosts = _same_start(notes, rank, size, deadline)
    except RuntimeError as error:
        raise UserError(
            f"{_me()} lost {_where()}, where the processes of this run meet: {error}", exit_code=1
        ) from None
    return World(rank, size, launcher.local_rank(), dist.PrefixStore(start, notes), hosts=tuple(hosts))


def _connect() -> dist.Store:
    try:
        store: dist.Store = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEETING_S)))[0]
        return store
    except ValueError as error:  # MASTER_ADDR or MASTER_PORT is missing, or no number
        raise UserError(
            "the environment says that this is one of several processes (RANK, WORLD_SIZE), but not where they meet: use "
            f"torchrun, or unset RANK to run alone ({error})"
        ) from None
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        if "EADDRINUSE" in said or "address already in use" in said:
            raise UserError(
                f"{_me()}: the port of {_where()} is in use by another program; choose another one (torchrun's --master-port or "
                "--rdzv-endpoint, or MASTER_PORT)"
            ) from None
        if "clients joined" in said:
            raise UserError(
                f"not all of the {launcher.processes()} processes of this run connected to {_where()} within {MEETING_S:.0f} s "
                f"({said})"
            ) from None
        raise UserError(
            f"{_me()} found no process of this run at {_where()} within {MEETING_S:.0f} s: is the first one started there, and "
            f"may this machine reach it? ({said})"
        ) from None


def _within(seconds: float, work: Callable[[], dist.Store]) -> dist.Store:
    """What ``work`` gives; an error where it hangs: torch waits for ever for the answer of a program that is not torch's."""
    done: list[dist.Store] = []
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, name="fastlift-meeting", daemon=True)
    thread.start()
    thread.join(seconds + _SILENT_S)
    if failed:
        raise failed[0]
    if not done:
        raise UserError(f"{_me()}: what listens at {_where()} does not answer as a process of this run would")
    return done[0]


def _same_start(notes: dist.Store, rank: int, size: int, deadline: float) -> tuple[str, list[str]]:
    """The name of this start, and the hosts of its ranks; what other starts have left in ``notes`` is passed over.

    Each rank leaves a number that it has drawn. The first one answers to that number with the name, over and over until it
    hears from all: a number may be that of a process which has ended.
    """
    mine = secrets.token_hex(8)
    notes.set(f"here/{rank}", mine)
    if rank:
        start = _note(notes, f"start/{mine}", deadline, "rank 0")
        notes.set(f"{start}/came/{rank}", socket.gethostname())
        return start, json.loads(_note(notes, f"{start}/hosts", deadline, "some other rank"))
    hosts, answered = {0: socket.gethostname()}, [""] * size
    while len(hosts) < size:
        for other in (one for one in range(size) if one not in hosts):
            if notes.check([f"{mine}/came/{other}"]):
                hosts[other] = notes.get(f"{mine}/came/{other}").decode()
            elif notes.check([f"here/{other}"]) and (number := notes.get(f"here/{other}").decode()) != answered[other]:
                notes.set(f"start/{number}", mine)
                answered[other] = number
        if time.monotonic() > deadline:
            missing = ", ".join(str(one) for one in range(size) if one not in hosts)
            raise UserError(f"rank {missing} of this run did not come within {MEETING_S:.0f} s", exit_code=1)
        time.sleep(0.01)
    in_order = [hosts[one] for one in range(size)]
    notes.set(f"{mine}/hosts", json.dumps(in_order))
    return mine, in_order


def _note(notes: dist.Store, key: str, deadline: float, whose: str) -> str:
    while not notes.check([key]):
        if time.monotonic() > deadline:
            raise UserError(f"{_me()}: {whose} of this run did not come within {MEETING_S:.0f} s", exit_code=1)
        time.sleep(0.01)
    return notes.get(key).decode()


def _me() -> str:
    return f"rank {launcher.rank()} ({socket.gethostname()})"


def _where() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
