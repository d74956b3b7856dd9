"""Several processes, one run: who they are, and the collectives by which they compute together.

What a step adds up over them lies in ``reducer``. How ranks meet and part is ``engine.processes``'s.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastlift.errors import UserError
from fastlift.system.library_output import native_output_shut

# Newer versions of torch warn of the older names (2.14 does, 2.11 knows no others).
_all_gather: Any = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class LostCompany(UserError):
    """A collective broke off because another process of the run has ended."""


class TimeLimit(UserError):
    """Other processes did not come within the time limit."""


_BEYOND_S = 60.0  # the group's own limit comes after the one that names the missing ranks
_GONE = ("connection", "gloo", "nccl", "socket", "timed out")  # words of torch's errors then


@contextmanager
def _others_needed() -> Iterator[None]:
    """Where another rank has gone, ``LostCompany`` instead of torch's own error, which says which socket was closed."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _GONE):
            raise LostCompany(
                "another process of this run has ended without a word (killed, or out of memory?)", exit_code=1
            ) from error
        raise


def _the_start() -> str:
    return "the start"


@dataclass
class Waiting:
    """How this rank waits for the others, for a thread that looks at it. Entered where it begins to wait.

    Attributes:
        limit_s: how long it may.
        since: when it began, by ``time.monotonic``; None where it does not wait.
        during: tells what the rank is doing, such as "step 12".
        way_on: tells how the run stands, where the limit has passed.
    """

    limit_s: float = 1800.0
    since: float | None = None
    during: Callable[[], str] = _the_start
    way_on: Callable[[], str] | None = None

    def __enter__(self) -> None:
        self.since = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        self.since = None


class Collectives:
    """Carries out a rank's collectives: at once, or, while a step is recorded, with each replay of the record.

    Collectives stay out of a record. So the ranks need not record or replay at the same time, and time limits hold for them.

    Attributes:
        number: of those that were begun.
        waiting: how this rank waits for the others in them.
    """

    def __init__(self) -> None:
        self.number = 0
        self.waiting = Waiting()
        self._recorder: Callable[[Callable[[], object]], object] | None = None

    def __call__(self, collective: Callable[[], object]) -> None:
        """Do ``collective``. It reads tensors that it holds and writes to them, also when it is done again."""
        if self._recorder is None:
            self._do(collective)
        else:
            self._recorder(lambda: self._do(collective))

    @property
    def are_recorded(self) -> bool:
        """Whether a step is being recorded."""
        return self._recorder is not None

    @contextmanager
    def left_to(self, recorder: Callable[[Callable[[], object]], object]) -> Iterator[None]:
        """Meanwhile ``recorder`` gets each collective, to be done in its place of every replay; nothing is done now."""
        self._recorder = recorder
        try:
            yield
        finally:
            self._recorder = None

    def _do(self, collective: Callable[[], object]) -> None:
        self.number += 1
        with self.waiting, _others_needed():
            collective()


PIECE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's rank, how many there are, its index on its machine, and where they leave notes.

    Attributes:
        hosts: the names of the machines, by rank.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: dist.Store | None = field(default=None, compare=False, repr=False)
    hosts: tuple[str, ...] = field(default=(), compare=False, repr=False)
    notes: Iterator[int] = field(default_factory=itertools.count, compare=False, repr=False)  # numbers those left there
    collectives: Collectives = field(default_factory=Collectives, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which alone writes and tells."""
        return self.rank == 0

    def named(self, ranks: Iterable[int]) -> str:
        """For messages: ``ranks 0, 1 (HOST) and rank 2 (OTHER)``."""
        on: dict[str, list[int]] = {}
        for rank in ranks:
            on.setdefault(self.hosts[rank] if self.hosts else "this machine", []).append(rank)
        return " and ".join(
            f"rank{'s' if len(of) > 1 else ''} {', '.join(map(str, of))} ({host})" for host, of in on.items()
        )


def own_device(world: World, device: torch.device) -> torch.device:
    """This rank's own device of the kind of ``device``.

    Raises:
        UserError: more processes than GPUs.
    """
    if world.size > 1 and device.type == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {world.local_rank + 1} of this machine, which has {torch.cuda.device_count()} GPU(s): start as many as "
                "there are (torchrun's --nproc-per-node)"
            )
        return torch.device("cuda", world.local_rank)
    return device


def open_group(world: World, device: torch.device) -> None:
    """Let the ranks compute together, each on its own device, all of the same kind."""
    if world.size == 1:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        assert world.store is not None
        backend = "nccl" if device.type == "cuda" else "gloo"
        waiting = world.collectives.waiting
        beyond = timedelta(seconds=waiting.limit_s + _BEYOND_S)
        with waiting, _others_needed(), native_output_shut(1):
            dist.init_process_group(
                backend, store=world.store.clone(), rank=world.rank, world_size=world.size, timeout=beyond
            )


def barrier(world: World) -> None:
    """Wait for all ranks."""
    if world.size > 1:
        world.collectives(dist.barrier)


class Vote:
    """Whether any rank said yes in a step: the same answer on all of them after the same step.

    On a GPU the answer of a step is read after the next one: by then it has crossed the bus, so that the host never waits
    for the step that it has just queued. On a CPU there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def count(self, votes: Tensor) -> bool:
        """Note a step's number of votes, a scalar on the device; gives the answer of the newest step that can be read."""
        if not self._late:
            return bool(votes > 0)
        host = torch.empty((), dtype=votes.dtype, pin_memory=True)
        host.copy_(votes, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        before, self._pending = self.last(), (host, event)
        return before

    def last(self) -> bool:
        """The answer of the last step, as far as ``count`` has not given it: waits for that step."""
        if self._pending is None:
            return False
        (host, event), self._pending = self._pending, None
        event.synchronize()
        return bool(host > 0)


def gather(tensor: Tensor, world: World) -> Tensor:
    """The tensors of all ranks, which have one shape: [N, ...]."""
    if world.size == 1:
        return tensor[None]
    mine = tensor.reshape(-1).contiguous()
    each = mine.new_empty(world.size * len(mine))
    world.collectives(partial(_all_gather, each, mine))
    return each.view(world.size, *tensor.shape)


def total(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Each tensor summed over the ranks, in place."""
    if world.size > 1:
        for tensor in tensors.values():
            world.collectives(partial(dist.all_reduce, tensor))
    return tensors


def reduced(tensor: Tensor, op: Any, world: World) -> Tensor:
    """``tensor``, of one shape on all ranks, reduced over them in place; ``op`` is one of ``dist.ReduceOp``."""
    if world.size > 1:
        world.collectives(partial(dist.all_reduce, tensor, op))
    return tensor


def scattered_sum(tensor: Tensor, world: World) -> Tensor:
    """This rank's part [R, ...] of the sum over the ranks of ``tensor`` [N R, ...]."""
    if world.size == 1:
        return tensor
    mine = tensor.new_empty(len(tensor) // world.size, *tensor.shape[1:])
    world.collectives(partial(_reduce_scatter, mine, tensor))
    return mine


Rows = Callable[[int], slice]
"""Which rows of a tensor each rank holds, by rank; all ranks together hold every row once."""


def sent_to_first(mine: Tensor, rows: Rows, length: int, world: World) -> Tensor | None:
    """The ``length`` rows of all ranks on the first one's CPU, one rank's after another's; None on the others.

    ``mine`` are this rank's.
    """
    if not world.is_main:
        world.collectives(partial(dist.send, mine.contiguous(), 0))
        return None
    each = torch.empty(length, *mine.shape[1:], dtype=mine.dtype)
    each[rows(0)] = mine.cpu()
    for rank in range(1, world.size):
        place = each[rows(rank)]
        theirs = place if mine.device.type == "cpu" else mine.new_empty(place.shape)
        world.collectives(partial(dist.recv, theirs, rank))
        if theirs is not place:
            place.copy_(theirs)
    return each


def sent_to_all(mine: Tensor, rows: Rows, length: int, world: World) -> Tensor:
    """The ``length`` rows of all ranks, on each, where its own (``mine``) lie."""
    each = mine.new_empty(length, *mine.shape[1:])
    each[rows(world.rank)] = mine
    for rank in range(world.size):
        world.collectives(partial(dist.broadcast, each[rows(rank)], rank))
    return each


def rows_from_first(whole: Tensor | None, mine: Tensor, rows: Rows, world: World) -> None:
    """Fill ``mine`` with this rank's rows of the first rank's ``whole``, which may lie elsewhere; other ranks have None."""
    if whole is None:
        world.collectives(partial(dist.recv, mine, 0))
        return
    mine.copy_(whole[rows(0)])
    for rank in range(1, world.size):
        world.collectives(partial(dist.send, whole[rows(rank)].to(mine), rank))


def rows_of_all(mine: Tensor, world: World, device: torch.device) -> Tensor | None:
    """Rows [n, K] of all ranks, by rank: [N', K] in the memory of the first one; None on the others. n may be 0.

    Args:
        mine: on the CPU. A rank without rows need not know K.
        device: where collectives work. What crosses it at a time is ``PIECE_BYTES`` of a rank.
    """
    if world.size == 1:
        return mine
    known = gather(torch.tensor(mine.shape, device=device), world).tolist()
    lengths, width = [length for length, _ in known], max(width for _, width in known)
    rows = max(1, PIECE_BYTES // max(1, width * mine.element_size()))
    starts = [sum(lengths[:rank]) for rank in range(world.size)]
    whole = mine.new_empty(sum(lengths), width) if world.is_main else None
    for begin in range(0, max(lengths), rows):
        piece = torch.zeros(min(rows, max(lengths) - begin), width, dtype=mine.dtype, device=device)
        own = mine[begin : begin + rows]
        if len(own):
            piece[: len(own)] = own
        pieces = [torch.empty_like(piece) for _ in lengths] if whole is not None else None
        world.collectives(partial(dist.gather, piece, pieces))
        if whole is not None and pieces is not None:
            for start, length, theirs in zip(starts, lengths, pieces, strict=True):
                end = min(length, begin + rows)
                if begin < end:
                    whole[start + begin : start + end] = theirs[: end - begin].cpu()
    return whole
