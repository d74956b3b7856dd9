"""How much memory is free, and refusing what cannot fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from fastlift.errors import UserError
from fastlift.system.machine import memory
from fastlift.system.machine.threads import local_processes

GIB = 2**30


def check_room(
    needs: Mapping[str, int],
    values: Mapping[str, object],
    free: int | None,
    hint: str = "",
    where: str = "this machine",
) -> None:
    """Settings that together fit in ``free`` bytes.

    Args:
        needs: setting -> bytes that come of it.
        values: setting -> its value, for the message.
        free: bytes that are free; None where nobody knows.
        hint: what else may be done.
        where: whose memory it is.

    Raises:
        UserError: they do not; the message names the setting that needs most.
    """
    total = sum(needs.values())
    if free is None or total <= free:
        return
    worst = max(needs, key=lambda name: needs[name])
    raise UserError(
        f"{worst}: {values.get(worst)} is too much for the memory of {where}: at least {total / GIB:,.1f} GiB are needed, "
        f"{needs[worst] / GIB:,.1f} of them by it, and {free / GIB:,.1f} are free. Choose a smaller {worst}{hint}"
    )


def free_bytes() -> int | None:
    """This process's share of the memory that is free, swap space with it: what is above must fail."""
    found = memory()
    return None if found.available is None else (found.available + found.swap) // local_processes()


def free_memory(device: torch.device) -> int | None:
    """Memory that could be used now, on the device or by this process; None where it cannot be told.

    On a GPU what the driver has left, beside other processes, and what torch has taken of it and not given out.
    """
    if device.type != "cuda":
        return free_bytes()
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def smaller_parts(batch: int, below: int) -> Iterator[int]:
    """The sizes below ``below`` of which a whole number makes a batch, the largest first."""
    return (size for size in range(min(below - 1, batch), 0, -1) if batch % size == 0)
