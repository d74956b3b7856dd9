"""A CUDA graph that is none: it records the ops of some work, and replays them on a CPU in the memory of the recording.

What makes CUDA graphs go wrong goes wrong here too. The replay runs no Python of the work: numbers of the host are those of
the recording. Every op reads and writes the tensors that it had then, so a tensor that was made anew since is not seen. And
recording does nothing: what it wrote to is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from syncs import waits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastlift.training.distributed import Collectives

Result = TypeVar("Result")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Recording(TorchDispatchMode):
    """Does each op and notes it, with its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.given: dict[
            int, tuple[torch.UntypedStorage, torch.UntypedStorage]
        ] = {}  # written memory of others, a copy
        self.born: set[int] = set()  # memory of the recording's own, held by ``calls``

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reason := waits(function.overloadpacket, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function} {reason}")
        for tensor in _written(function, args, kwargs):
            if _place(tensor) not in self.born and _place(tensor) not in self.given:
                self.given[_place(tensor)] = tensor.untyped_storage(), tensor.untyped_storage().clone()
        read = {_place(tensor) for tensor in _tensors((args, kwargs))}
        result = function(*args, **kwargs)
        self.born |= {_place(tensor) for tensor in _tensors(result)} - read - self.given.keys()
        self.calls.append((function, args, kwargs, result))
        return result

    def cut(self, collective: Callable[[], object]) -> None:
        """Note what the host does at this place of each replay."""
        self.calls.append((collective, (), {}, ()))

    def undo(self) -> None:
        for storage, copy in self.given.values():
            storage.copy_(copy)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, before in self.calls:
            for old, new in zip(_tensors(before), _tensors(function(*args, **kwargs)), strict=True):
                if _place(old) != _place(new):
                    old.copy_(new)


def _written(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an op changes, by its schema."""
    declared = function._schema.arguments
    given = [*zip(declared, args, strict=False), *((a, kwargs[a.name]) for a in declared if a.name in kwargs)]
    changed = [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]
    return _tensors(changed)


class Tape:
    """Stands in for ``CudaGraphs``.

    Attributes:
        queued: how often work was done without a record.
        records: how many were made.
        replays: how often they were replayed.
        forgotten: how often memory was given back: before each record, and when there are no steps to come.
    """

    def __init__(self) -> None:
        self.queued = self.records = self.replays = self.forgotten = 0

    def queue(self, work: Callable[[], Result], on_wait: Callable[[str], object] | None = None) -> Result:
        self.queued += 1
        if on_wait is None:
            return work()
        with _Noting(on_wait):
            return work()

    def record(self, work: Callable[[], object], collectives: Collectives) -> Callable[[], object]:
        recording = _Recording()
        try:
            with recording, collectives.left_to(recording.cut):
                work()
        finally:
            recording.undo()
        self.records += 1

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return replay

    def forget(self) -> None:
        self.forgotten += 1


class Dispatched(TorchDispatchMode):
    """Every op goes through the dispatcher, as while it is recorded: called directly, some of ours round in another order."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **kwargs or {})


class _Noting(TorchDispatchMode):
    """Tells of what would wait for a GPU."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(function.overloadpacket, args):
            self.tell(str(function))
        return function(*args, **kwargs or {})
