"""The least memory that settings need, told from shapes alone: what cannot fit is refused before it is allocated.

Lower bounds, so that nothing is refused that would have fitted; what a forward pass really keeps is measured later
(``fastlift.engine.memory``). Legend: D width, M MLP width, L tokens, P prompts, N blocks, r rank, S image size.
"""

from __future__ import annotations

from fastlift.models.resnet import ResNet
from fastlift.models.vit import VisionTransformer

NUMBER = 4  # bytes of what trains, of images in the making, and of weights as they are loaded


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
    vit: VisionTransformer | ResNet, images: int, prompts: int, itemsize: int, first: int, checkpointing: str
) -> int:
    """Kept for backward by the blocks between the first tuned one and the last, which computes for one token alone.

    A block keeps its input, q, k, v and the MLP's pre-activation (and attention's output, but for own kernels); nothing but
    the first with ``checkpointing`` block, and all but the last with mlp.
    """
    if isinstance(vit, ResNet):
        return 0
    inside = 0 if checkpointing != "none" else vit.block(0).mlp_width
    width = vit.width if checkpointing == "block" else 4 * vit.width + inside
    return itemsize * images * (vit.sequence_length + prompts) * width * max(0, vit.depth - 2 - first)
