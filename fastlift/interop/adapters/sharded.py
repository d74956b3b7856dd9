"""Parameters that FSDP2 shards: their whole values, and values laid out as they are."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor


@runtime_checkable
class Sharded(Protocol):
    """What FSDP2 makes of a parameter (a DTensor): each process holds a part of it."""

    def full_tensor(self) -> Tensor:
        """The whole, gathered by all processes."""


def whole(parameter: Tensor) -> Tensor:
    """A parameter's whole value; of a sharded one all processes ask for it."""
    return parameter.full_tensor() if isinstance(parameter, Sharded) else parameter


def laid_out_as(parameter: Any, value: Tensor) -> Tensor:
    """A value laid out as the parameter that it is copied to."""
    if not isinstance(parameter, Sharded):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = cast(Any, parameter).device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, cast(Any, parameter).placements)
