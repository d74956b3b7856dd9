"""The least memory that settings need, told from shapes alone: what cannot fit is refused before it is allocated.

Lower bounds, so that nothing is refused that would have fitted; what a forward pass really keeps is measured later
(``fastlift.engine.memory``). Legend: D width, M MLP width, L tokens, P prompts, N blocks, r rank, S image size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from fastlift.errors import UserError
from fastlift.models.resnet import ResNet
from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import Tower, VisionTransformer
from fastlift.system.machine import memory
from fastlift.system.machine.threads import local_processes

NUMBER = 4  # bytes of what trains, of images in the making, and of weights as they are loaded
COPIES = 3  # a trained number has a gradient and a momentum
GIB = 2**30
PROMPTED = {"vpt_shallow", "vpt_deep"}


def trained_bytes(tower: Tower, names: Sequence[str], settings: TunerSettings) -> dict[str, int]:
    """Setting -> bytes of the numbers that train by it: those that a setting can make as many as it likes."""
    width, hidden = tower.width, tower.block(0).mlp_width
    per_rank = {"adaptformer": 2 * width, "adapter": 2 * width}
    per_lora_rank = {"lora": 4 * width, "lora_mlp": 2 * (width + hidden)}
    blocks = len(settings.layers)
    counts = {
        "rank": settings.rank * blocks * sum(per_rank.get(name, 0) for name in names),
        "lora_rank": settings.lora_rank * blocks * sum(per_lora_rank.get(name, 0) for name in names),
        "prompt_length": settings.prompt_length
        * width
        * ((blocks if "vpt_deep" in names else 0) + (1 if "vpt_shallow" in names else 0)),
    }
    return {setting: NUMBER * count for setting, count in counts.items()}


def pixel_bytes(image_size: int, images: int) -> int:
    """Of images in the making: fp32, three channels."""
    return NUMBER * 3 * image_size**2 * images


def forward_bytes(vit: VisionTransformer | ResNet, images: int, prompts: int, itemsize: int) -> int:
    """Alive at once in a forward pass that keeps nothing: tokens beside queries, keys and values, or the MLP's inside."""
    if isinstance(vit, ResNet):
        return itemsize * 3 * vit.image_size[0] ** 2 * images
    block = vit.block(0)
    return itemsize * images * (vit.sequence_length + prompts) * (vit.width + max(3 * vit.width, block.mlp_width))


def kept_bytes(
    vit: VisionTransformer | ResNet, images: int, prompts: int, itemsize: int, first: int, recompute: str
) -> int:
    """Kept for backward by the blocks between the first tuned one and the last, which computes for one token alone.

    A block keeps its input, q, k, v, attention's output, and the MLP's pre-activation; nothing but the first with
    ``recompute`` block, and all but the last with mlp.
    """
    if isinstance(vit, ResNet):
        return 0
    inside = 0 if recompute != "none" else vit.block(0).mlp_width
    width = vit.width if recompute == "block" else 5 * vit.width + inside
    return itemsize * images * (vit.sequence_length + prompts) * width * max(0, vit.depth - 2 - first)


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
