"""Ops that make the host wait for a GPU, or that add floats on one in the order in which threads come by: told on a CPU.

The dispatcher sees the same ops on every device, so what is forbidden here would wait, or not repeat, there. What kernels
of one device alone do inside is not seen, nor is what on a CPU is no op (``tolist``, ``cpu``): on a GPU,
``torch.cuda.set_sync_debug_mode`` is asked too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Values or shapes that only the device knows, read back. In inference mode some arrive under the names that users call.
_READ_BACK = {
    aten.item, aten.argwhere, aten.nonzero_numpy, aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_static, aten.masked_select, aten.unique_dim,
    aten._unique, aten._unique2, aten.unique_consecutive, aten.bincount, aten.allclose,
}  # fmt: skip
# ``torch.tensor(...)`` of numbers: on a GPU they are copied from memory that is not pinned, and waited for.
_FROM_THE_HOST = {aten.lift_fresh}
_BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_UNORDERED = {aten.index_add, aten.index_add_, aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.index_reduce,
              aten.cumsum, aten.histc, aten.embedding_dense_backward, aten.put_}  # fmt: skip


class _Watching(TorchDispatchMode):
    def __init__(self, forbidden: Callable[[Any, Any], str]) -> None:
        super().__init__()
        self.forbidden, self.seen = forbidden, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        if reason := self.forbidden(function.overloadpacket, args):
            raise AssertionError(f"{function} {reason}")
        return function(*args, **kwargs or {})


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Fail at an op, in forward or backward, that would make the host wait for a GPU."""
    yield from _watched(waits)


@contextmanager
def repeatable_sums() -> Iterator[None]:
    """Fail at an op that adds up floats in no fixed order on a GPU."""
    yield from _watched(_is_unordered)


def _watched(forbidden: Callable[[Any, Any], str]) -> Iterator[None]:
    with _Watching(forbidden) as mode:
        yield
    assert mode.seen, "nothing ran here, so nothing was tested"


def waits(op: Any, args: Any) -> str:
    if op in _READ_BACK:
        return "reads back from the device"
    if op in _FROM_THE_HOST:
        return "copies numbers from the host, and waits"
    if op in _BY_INDEX and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        return "counts a mask on the device to know its shape"
    if op is aten.where and len(args) == 1:
        return "reads back from the device where a mask is set"
    if op is aten.repeat_interleave:
        return "asks the device for the length of its result"
    return ""


def _is_unordered(op: Any, args: Any) -> str:
    floats = any(isinstance(arg, Tensor) and arg.is_floating_point() for arg in args)
    return "adds floats in the order in which threads come by" if op in _UNORDERED and floats else ""
