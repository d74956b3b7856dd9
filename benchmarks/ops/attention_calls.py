"""Calls of attention whose kernels resources.py compiles: the shapes of ViTs, in the blocks that each architecture has for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastlift_kernels.attention import backward, backward_whole, configuration, forward

HEADS = 12
NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Call:
    """Tokens of an image, width of a head, dtype, and what is unlike a ViT's call for all tokens."""

    tokens: int
    width: int
    dtype: torch.dtype
    unusual: str = ""

    @property
    def name(self) -> str:
        return f"{NAMES[self.dtype]} {self.tokens} tokens {self.width} wide{self.unusual and ' ' + self.unusual}"


CALLS = (
    Call(197, 64, torch.bfloat16),
    Call(197, 64, torch.bfloat16, "class token"),
    Call(77, 64, torch.bfloat16, "causal"),
    Call(224, 64, torch.bfloat16),
    Call(257, 64, torch.bfloat16),
    Call(261, 64, torch.bfloat16, "rotary"),
    Call(261, 128, torch.bfloat16),
    Call(197, 64, torch.float32, "tf32"),
    Call(197, 64, torch.float32, "ieee"),
)


def arguments(call: Call) -> dict[str, Any]:
    """Of all three kernels, by their kinds."""
    half, single = f"*{NAMES[call.dtype]}", "*fp32"
    q = half if call.unusual == "class token" else None
    angles = single if call.unusual == "rotary" else None
    pointers = {"kv": half, "q": q, "sin": angles, "cos": angles, "out": half, "lse": single, "delta": single}
    gradients = {"d_out": half, "d_kv": half, "d_q": q}
    numbers = {**dict.fromkeys(("L", "Q", "first", "patches"), "i32"), "D": call.width * HEADS, "H": HEADS}
    return {**pointers, **gradients, **numbers, "scale": "fp32", "factor": "fp32"}


def constants(call: Call) -> dict[str, Any]:
    """Those that all three kernels have."""
    half, precision = configuration.half_of(call.width), call.unusual if call.dtype == torch.float32 else "ieee"
    packed, causal = call.unusual != "class token", call.unusual == "causal"
    return {"PACKED": packed, "CAUSAL": causal, "WIDTH": call.width, "HALF": half, "PRECISION": precision}


def kernels(call: Call, architectures: tuple[int, ...]) -> Iterator[tuple[str, Any, dict[str, Any], tuple[int, ...]]]:
    """(name, kernel, sizes with warps and stages, architectures that have these) of both directions."""
    found: dict[Any, list[int]] = {}
    for architecture in architectures:
        for blocks_of in (configuration.forward_blocks, configuration.backward_blocks):
            if (blocks := blocks_of(call.tokens, call.width, call.dtype, architecture)) is not None:
                found.setdefault(blocks, []).append(architecture)
    segments = {"SEGMENTS": configuration.segments(call.tokens)}
    for blocks, of in found.items():
        launch = {"num_warps": blocks.warps, "num_stages": blocks.stages}
        kernel: Any
        if isinstance(blocks, configuration.Forward):
            kernel, name = forward.attention_forward_kernel, f"forward {blocks.queries}"
            sizes = {**segments, "BQ": blocks.queries}
        elif isinstance(blocks, configuration.Whole):
            kernel, name = backward_whole.attention_backward_whole_kernel, f"backward whole {blocks.queries}"
            sizes = {"BQ": blocks.queries, "BK": blocks.keys}
        else:
            kernel, name = backward.attention_backward_kernel, f"backward passes {blocks.queries}"
            sizes = {**segments, "BQ": blocks.queries, "BK": blocks.keys, "BQ2": blocks.queries_again}
        yield f"attention {name} {call.name}", kernel, {**sizes, **launch}, tuple(of)
