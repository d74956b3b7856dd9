"""What one training step of LIFT does, kernel by kernel as the eager code launches it: FLOP, bytes of memory, bytes of L2.

Each part reads its inputs and writes its outputs once, as separate kernels do, unless its comment says otherwise. The last
block's second half runs for the class token alone; backward ends at the first block's adapter, whose MLP gets no gradient.
What ``--fused`` changes is counted too; what its kernels compute of padding is not.

Legend: L tokens of an image, D width, M MLP width, r rank, C classes, T bytes of [L, D], B images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from benchmarks.ops.traffic import adapter_from_caches, adapter_on_a_gpu, classifier
from fastlift.models.fused import Fused
from fastlift_kernels.attention.configuration import Passes, backward_blocks

MULTIPROCESSORS = 132  # of the GPU; an H100 has so many, and partial sums of the adapter's backward follow them
CAPABILITY = 90  # 9.0, an H100's


@dataclass(frozen=True)
class Shape:
    """A ViT-B/16 at 224 pixels with LIFT's adapters and 1000 classes, in bf16, unless said otherwise."""

    tokens: int = 197
    width: int = 768
    mlp: int = 3072
    heads: int = 12
    depth: int = 12
    patch: int = 16
    rank: int = 32
    classes: int = 1000
    bytes: int = 2
    fused: tuple[Fused, ...] = ()


@dataclass(frozen=True)
class Part:
    """A kind of kernel over all blocks that run it, an image.

    Attributes:
        group: the line of a profile that it belongs to.
        flop: of products; a multiplication and an addition are two.
        bytes: of memory.
        cached: bytes that come from L2 alone.
    """

    name: str
    group: str
    flop: float
    bytes: float
    cached: float = 0.0


PRODUCTS, ATTENTION, ATTENTION_BACKWARD = "products", "attention", "attention, backward"
ACTIVATION, ACTIVATION_BACKWARD = "QuickGELU", "QuickGELU, backward"
ADAPTER, JOIN, ADDS, REST = "adapter", "joining dq, dk, dv", "additions, LN_1", "classifier, loss, optimiser"


def parts(s: Shape, batch: int) -> list[Part]:
    """All parts of a step of ``batch`` images; weights are read once a batch."""
    return [*_forward(s, batch), *_backward(s, batch), *_adapter(s, batch), *_rest(s, batch)]


def passes_bytes(s: Shape, batch: int) -> float:
    """Bytes an image beside the products' own operands and results, the classifier and the optimiser.

    What an epilogue reads and writes in place of a pass counts here.
    """
    own = sum(part.bytes for part in parts(replace(s, fused=()), batch) if part.group == PRODUCTS)
    return sum(part.bytes for part in parts(s, batch) if part.group != REST) - own


def evaluation_parts(s: Shape, batch: int) -> list[Part]:
    """All parts of the logits of ``batch`` images, without gradients; five crops of an image are five images."""
    classifier_bytes = s.width * s.bytes + s.classes * 4 * (1 + 2 * s.width / batch)  # normalised weights, fp32
    return [
        *_forward(s, batch, keep=False),
        _adapter(s, batch)[0],
        Part("classifier", REST, 2.0 * s.width * s.classes, classifier_bytes),
    ]


def step_flop(s: Shape) -> float:
    """FLOP of products that a step without activation checkpointing takes, an image."""
    return sum(part.flop for part in parts(s, 1))


def trained(s: Shape) -> int:
    """Numbers that LIFT trains: adapters with their norms, and the classifier."""
    return s.depth * (2 * s.width * s.rank + 3 * s.width + s.rank + 1) + s.classes * s.width


def backbone(s: Shape) -> int:
    """Numbers of the frozen ViT: patches, class token, positions, norms, and the blocks' products with their biases."""
    block = 4 * s.width * (s.width + 1) + 2 * s.width * s.mlp + s.mlp + s.width + 4 * s.width
    return s.depth * block + (3 * s.patch**2 + 1 + s.tokens + 4) * s.width


def _sizes(s: Shape, batch: int) -> tuple[float, float, float, float]:
    """(T, bytes of a [D, D] weight an image, FLOP of [L, D] x [D, D], M / D)."""
    return (
        s.tokens * s.width * s.bytes,
        s.width * s.width * s.bytes / batch,
        2.0 * s.tokens * s.width * s.width,
        s.mlp / s.width,
    )


def _forward(s: Shape, batch: int, keep: bool = True) -> list[Part]:
    """``keep``: for backward."""
    token, weight, product, ratio = _sizes(s, batch)
    whole = s.depth - 1  # blocks whose second half runs for all tokens
    attention = 4.0 * s.tokens**2 * s.width
    pixels = 3 * s.patch**2  # of a patch
    patches = (s.tokens - 1) / s.tokens
    # products of the last block for the class token: q, attention's output, both of the MLP
    alone = (2 + 2 * ratio) * product / s.tokens
    return [
        Part("patches", PRODUCTS, patches * product * pixels / s.width, patches * token * (1 + pixels / s.width)),
        # the class token beside the patches, positions, the norm before the first block
        Part("embedding", ADDS, 0, 6 * token),
        Part("LN_1", ADDS, 0, s.depth * 2 * token),
        Part("qkv", PRODUCTS, (3 * whole + 2) * product, (4 * whole + 3) * token + (3 * whole + 2) * weight),
        Part("attention", ATTENTION, whole * attention + attention / s.tokens, (4 * whole + 2) * token),
        Part("attention output", PRODUCTS, whole * product, whole * (2 * token + weight)),
        Part("residual after attention", ADDS, 0, whole * 3 * token),
        *_mlp(s, whole, token, weight, product, keep),
        Part("last block, class token", PRODUCTS, alone, (2 + 2 * ratio) * weight),
    ]


def _mlp(s: Shape, whole: int, token: float, weight: float, product: float, keep: bool) -> list[Part]:
    """The MLP of the blocks that run it for all tokens."""
    ratio = s.mlp / s.width
    flop, least = whole * ratio * product, whole * ((1 + ratio) * token + ratio * weight)
    if "mlp" in s.fused:
        # The first product writes the activation and, but in the first block, which needs no gradient, the pre-activation.
        kept = (whole - 1) * ratio * token if keep else 0.0
        return [
            Part("MLP in, QuickGELU", PRODUCTS, flop, least + kept),
            Part("MLP out, residual", PRODUCTS, flop, least + whole * token),
        ]
    return [
        Part("MLP in", PRODUCTS, flop, least),
        Part("QuickGELU", ACTIVATION, 0, whole * 2 * ratio * token),
        Part("MLP out", PRODUCTS, flop, least),
        Part("residual after the MLP", ADDS, 0, whole * 3 * token),
    ]


def _backward(s: Shape, batch: int) -> list[Part]:
    token, weight, product, ratio = _sizes(s, batch)
    whole = s.depth - 2  # blocks between the first, which ends at its adapter, and the last
    return [
        Part("last block, class token, dx", PRODUCTS, (2 + 2 * ratio) * product / s.tokens, (2 + 2 * ratio) * weight),
        *_mlp_backward(s, whole, token, weight, product),
        Part("attention output, dx", PRODUCTS, whole * product, whole * (2 * token + weight)),
        *_attention_backward(s, whole, token),
        Part("qkv, dx", PRODUCTS, (3 * whole + 2) * product, (4 * whole + 3) * token + (3 * whole + 2) * weight),
        Part("LN_1, dx", ADDS, 0, (whole + 1) * 3 * token),
        # into the residual's gradient; the last block's class token is padded with zeros twice, and added twice
        Part("additions of gradients", ADDS, 0, (3 * whole + 8) * token),
    ]


def _mlp_backward(s: Shape, whole: int, token: float, weight: float, product: float) -> list[Part]:
    ratio = s.mlp / s.width
    flop, least = whole * ratio * product, whole * ((1 + ratio) * token + ratio * weight)
    if "mlp" in s.fused:  # the first product reads the pre-activation
        return [
            Part("MLP out, QuickGELU, dx", PRODUCTS, flop, least + whole * ratio * token),
            Part("MLP in, dx", PRODUCTS, flop, least),
        ]
    return [
        Part("MLP out, dx", PRODUCTS, flop, least),
        Part("QuickGELU, dx", ACTIVATION_BACKWARD, 0, whole * 3 * ratio * token),
        Part("MLP in, dx", PRODUCTS, flop, least),
    ]


def _attention_backward(s: Shape, whole: int, token: float) -> list[Part]:
    """The last block reads keys and values and writes their gradients; its queries are one token."""
    product = (whole + 1 / s.tokens) * 2.0 * s.tokens**2 * s.width
    if "attention" in s.fused:  # q, k, v and the gradient read, dq, dk, dv written (7 T)
        count, again = _twice(s)
        return [
            Part("attention, dx", ATTENTION_BACKWARD, count * product, (7 * whole + 4) * token, again * whole * token)
        ]
    return [
        # FlashAttention 2: a pass over out and its gradient that clears dq in fp32 (4 T); q, k, v and the gradient read, dk
        # and dv written (6 T); dq added to, read and written (4 T); dq rounded (3 T).
        Part("attention, dx", ATTENTION_BACKWARD, 5 * product, (17 * whole + 4) * token),
        # chunk's backward makes one [L, 3D] of three, in the last block one [L, 2D] of two
        Part("dq, dk, dv to one", JOIN, 0, (6 * whole + 4) * token),
    ]


def _twice(s: Shape) -> tuple[int, int]:
    """(products of own attention's backward, tensors [L, D] that it reads again from the caches).

    In two passes, the second computes the scores and their gradients again, and reads keys and values once more, and queries
    and the gradient for every block of keys.
    """
    blocks = backward_blocks(s.tokens, s.width // s.heads, torch.bfloat16, CAPABILITY)
    return (7, 2 + 2 * -(-s.tokens // blocks.keys)) if isinstance(blocks, Passes) else (5, 0)


def _adapter(s: Shape, batch: int) -> list[Part]:
    """The op's passes over all tokens of the blocks but the last, which has one token."""
    from fastlift_kernels.adapter.arguments import MOST_FUSED_RANK

    whole = s.depth - 1
    tokens = whole * s.tokens
    product = 2.0 * s.tokens * s.width * s.rank
    products = whole + 1 / s.tokens  # blocks, the last one's class token counted
    # two products forward; four backward, of which the first block leaves out that of dx
    flop = (2 * products * product, (4 * products - 1) * product)
    traffic = adapter_on_a_gpu(s.width, s.rank, s.bytes, batch * s.tokens, MULTIPROCESSORS)
    cached = (0.0, 0.0) if s.rank > MOST_FUSED_RANK else adapter_from_caches(s.width, s.rank, s.bytes)
    names = ("adapter op (LN_2, LN_a, branch, residual)", "adapter op, dx and weights")
    return [
        Part(name, ADAPTER, count, way.token * tokens + way.call * whole / batch, again * tokens)
        for name, count, way, again in zip(names, flop, traffic, cached, strict=True)
    ]


def _rest(s: Shape, batch: int) -> list[Part]:
    """Classifier with its loss both ways, and the optimiser with the look for gradients that are not finite."""
    ways = classifier(batch, s.width, s.classes, s.bytes)["GPU"]
    return [
        Part(
            "classifier with its loss",
            REST,
            3 * 2.0 * s.width * s.classes,
            sum(way.token + way.call / batch for way in ways),
        ),
        # weight and momentum read and written, the gradient read twice, in fp32
        Part("optimiser", REST, 0, trained(s) * 4 * 6 / batch),
    ]
