"""How the processes of a run meet, make sure that they are alike, and part: what one ends with ends all, told once.

Processes leave notes for each other in torch's store, which torchrun or the first of them keeps. Notes are JSON, no pickle.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastlift.config import Config, marked
from fastlift.data.index.index import ImageIndex
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.models.precision import Amp, Shape, dtype_name, resolve_amp
from fastlift.settings import May
from fastlift.system import launcher
from fastlift.system.device import versions
from fastlift.system.signals import Outlasting
from fastlift.training.distributed import LostCompany, World, total

MEETING_S = 300.0  # for all processes to start
WAITING_S = 1800.0  # for what another one does before a note, such as an index of a large data set
PARTING_S = 5.0  # for the others to hear of an end and leave by themselves
NOTING_S = 1.0  # for the note of another's end, which it leaves before the others lose it
_ROUNDING = 1e-2  # of the largest value; text features in bf16 differ by less on unlike processors
_END, _TOLD = "end", "told"
_met: World | None = None
_numbers = itertools.count()


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
    _met = world = _meet()
    watch, theirs = _Watch(world), dist.is_initialized()
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
            watch.stop()


def _meet() -> World:
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEETING_S)))
    except RuntimeError as error:
        raise UserError(f"the other processes of this run did not connect within {MEETING_S:.0f} s: {error}") from None
    except ValueError as error:  # MASTER_ADDR or MASTER_PORT is missing, or no number
        raise UserError(
            "the environment says that this is one of several processes (RANK, WORLD_SIZE), but not where they meet: use "
            f"torchrun, or unset RANK to run alone ({error})"
        ) from None
    store = dist.PrefixStore(
        f"fastlift/{next(_numbers)}", store
    )  # the next run of these processes has notes of its own
    return World(rank, size, launcher.local_rank(), store)


def _part(world: World) -> None:
    """Leave the others; the first process waits until they have read the notes, where it keeps them itself."""
    assert world.store is not None
    deadline = time.monotonic() + PARTING_S
    try:
        world.store.set(f"left/{world.rank}", "")
        names = [f"left/{rank}" for rank in range(world.size)]
        keeps = world.is_main and not launcher.keeps_notes()
        while keeps and not world.store.check(names) and time.monotonic() < deadline:
            time.sleep(0.02)
    except RuntimeError:
        return  # whoever kept the notes has gone


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
        return bool(world.store.compare_set(_END, "", mine).decode() == mine)
    except RuntimeError:
        return world.rank == 1  # the first process kept the notes and was killed: the second tells


def noted_end(world: World, patience: float = 0.0) -> End | None:
    """What ended another process, or this one; waits for so many seconds where nothing is noted yet."""
    assert world.store is not None
    deadline = time.monotonic() + patience
    while not world.store.check([_END]):
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.02)
    return End(**json.loads(world.store.get(_END)))


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
        deadline = time.monotonic() + PARTING_S
        while not world.store.check([_TOLD]) and time.monotonic() < deadline:
            time.sleep(0.02)
        end = noted_end(world) if isinstance(error, LostCompany) else None
    except RuntimeError:
        end = None
    return exit_code_of(error) if end is None else end.exit_code


class _Watch:
    """Ends a process that goes on after another one's end, perhaps in the middle of a collective that will never return."""

    def __init__(self, world: World) -> None:
        assert world.store is not None
        self._world, self._store, self._over = world, world.store.clone(), threading.Event()
        threading.Thread(target=self._look, name="fastlift-company", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _look(self) -> None:
        watched = replace(self._world, store=self._store)
        try:
            while (end := noted_end(watched)) is None:
                if self._over.wait(0.2):
                    return
        except RuntimeError:  # whoever kept the notes has gone: the next collective meets that
            return
        if end.rank != self._world.rank and not self._over.wait(PARTING_S):
            sys.stdout.flush()
            os._exit(end.exit_code)


def agree(world: World, facts: Mapping[str, Any]) -> None:
    """Go on only where all ranks have the same facts, whose names the message tells.

    Raises:
        UserError: on every rank, with the same message, where one differs.
    """
    if world.size == 1:
        return
    mine = {name: str(value) for name, value in facts.items()}
    each = [json.loads(text) for text in _exchange(world, json.dumps(mine))]
    differing = [_who(name, [theirs.get(name, "none") for theirs in each]) for name in {n: 0 for e in each for n in e}]
    told = "; ".join(filter(None, differing))
    if told:
        raise UserError(
            f"the processes of this run differ: {told}. Start all of them with the same command, data and versions"
        )


def settings_of(config: Config, device: torch.device) -> dict[str, Any]:
    """What ``agree`` is asked of first: settings, kind of device, versions."""
    settings = {name: value for name, value in config.flat().items() if name not in marked(May.DIFFER)}
    packages = {f"the version of {package}": number for package, number in versions().items()}
    return {"recipe": config.recipe, **settings, "the kind of device": device.type, **packages}


def fingerprints_of(train: ImageIndex, test: ImageIndex, model: LiftModel) -> dict[str, str]:
    """What ``agree`` is asked of once data and model are there."""
    return {
        "the training data": train.fingerprint,
        "the test data": test.fingerprint,
        "the backbone's weights": model.backbone_fingerprint,
    }


def first_says(world: World, answer: Callable[[], str]) -> str:
    """The first rank's answer, for all; the others do not work theirs out."""
    mine = answer() if world.is_main else ""
    return mine if world.size == 1 else _exchange(world, mine)[0]


def first_does(world: World, work: Callable[[], None]) -> None:
    """Let the first rank alone do what may take hours; the others wait as long as it lives, whatever that takes.

    They wait for a note, since a collective would give up after minutes. Where the first rank is killed, its end takes the
    notes with it, or torchrun, which keeps them then, ends the others.
    """
    if world.is_main:
        work()
    if world.size > 1:
        _exchange(world, "", patience=math.inf)


def first_amp(world: World, name: str, device: torch.device, shape: Callable[[], Shape | None]) -> Amp:
    """``resolve_amp`` as the first rank does: others would measure beside it, and might find otherwise.

    Args:
        shape: asked for where a measurement decides.
    """
    found: list[Amp] = []

    def answer() -> str:
        measured = name == "auto" and device.type == "cpu"
        found.append(resolve_amp(name, device, shape() if measured else None))
        return dtype_name(found[0].dtype)

    chosen = first_says(world, answer)
    return found[0] if found else resolve_amp(chosen, device)


def take_first_start(world: World, parameters: Mapping[str, Tensor]) -> None:
    """Give ``parameters`` the first rank's values on all, so that they are equal to the last bit on unlike processors.

    Raises:
        UserError: a rank's own were others, by more than rounding.
    """
    if world.size == 1 or not parameters:  # none where nothing trains, as in zero-shot
        return
    own = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])
    first = total({"": own.clone() if world.is_main else torch.zeros_like(own)}, world)[""]
    sizes = [parameter.numel() for parameter in parameters.values()]
    pairs = list(zip(own.split(sizes), first.split(sizes), strict=True))
    near = all(bool((mine - theirs).abs().max() <= _ROUNDING * theirs.abs().max()) for mine, theirs in pairs)
    agree(world, {"the start of what trains": "that of rank 0" if near else "another"})
    with torch.no_grad():
        for parameter, (_, theirs) in zip(parameters.values(), pairs, strict=True):
            parameter.copy_(theirs.view_as(parameter))


def _exchange(world: World, text: str, patience: float = WAITING_S) -> list[str]:
    """What each rank says, by rank; waits for each of them so many seconds."""
    assert world.store is not None
    number = next(world.notes)
    world.store.set(f"{number}/{world.rank}", text)
    return [_read(world, f"{number}/{rank}", rank, patience) for rank in range(world.size)]


def _read(world: World, key: str, rank: int, patience: float) -> str:
    """A note of another rank, once it is there.

    Raises:
        LostCompany: some rank has ended.
        UserError: it does not come.
    """
    assert world.store is not None
    deadline, pause = time.monotonic() + patience, 0.01
    try:
        while not world.store.check([key]):
            if world.store.check([_END]):
                raise LostCompany("another process of this run has ended", exit_code=1)
            if time.monotonic() > deadline:
                raise UserError(
                    f"process {rank} of this run did not reach this point within {patience:.0f} s", exit_code=1
                )
            time.sleep(pause)
            pause = min(1.1 * pause, 0.2)  # the keeper of the notes answers all that wait
        return world.store.get(key).decode()
    except RuntimeError as error:
        raise LostCompany("the process that keeps this run's notes has ended", exit_code=1) from error


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _who(name: str, values: Sequence[str]) -> str:
    """``lr is 0.1 on rank 0 and 0.2 on ranks 1, 2``; nothing where all are the same."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    if len(ranks) == 1:
        return ""
    where = [
        f"{_short(value)} on rank{'s' if len(of) > 1 else ''} {', '.join(map(str, of))}" for value, of in ranks.items()
    ]
    return f"{name} is {' and '.join(where)}"
