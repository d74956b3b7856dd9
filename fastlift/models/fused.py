"""Which of the ops' own GPU kernels run that are not the default, because no GPU has timed them yet.

Each name has a switch, which sets attributes of the blocks. What a kernel does not take runs as it does without the setting,
and the switch says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

import fastlift_kernels as kernels
from fastlift.models.frozen_mlp import is_plain
from fastlift.models.vit import VisionTransformer
from fastlift.settings import May, Settings

Fused = Literal["attention", "mlp"]


def _attention(vit: VisionTransformer) -> str | None:
    device = next(vit.parameters()).device
    reasons = set()
    for i in range(vit.depth):
        block = vit.block(i)
        most, reason = kernels.attention_tokens(vit.width // block.heads, vit.compute_dtype, device)
        block.fused_tokens = most
        if vit.longest_sequence > most:
            reasons.add(f"{reason}, and this model has {vit.longest_sequence}" if most else reason)
    return "; ".join(sorted(reasons)) or None


def _mlp(vit: VisionTransformer) -> str | None:
    if reason := kernels.mlp_reason(vit.compute_dtype, next(vit.parameters()).device):
        return reason
    blocks = [vit.block(i) for i in range(vit.depth)]
    others = sum(not is_plain(block.mlp_sites) for block in blocks)
    for block in blocks:
        block.mlp_impl = "triton"
    return f"the MLP of {others} of {len(blocks)} blocks is in fp8, learns or has a tuner inside" if others else None


_SWITCHES: dict[Fused, Callable[[VisionTransformer], str | None]] = {"attention": _attention, "mlp": _mlp}


@dataclass(frozen=True)
class FusedSettings(Settings):
    """Which GPU kernels run that are not the default."""

    fused: Annotated[tuple[Fused, ...], May.CHANGE] = ()
    """Own GPU kernels in place of the library's, by name; off by default, because no GPU has timed them yet."""

    def build(self, vit: nn.Module) -> list[str]:
        """Switch them on in a backbone that is on its device and has its dtype.

        Returns:
            for each that changes nothing here, or not everywhere, a sentence that says why.
        """
        if not isinstance(vit, VisionTransformer):
            return [f"fused {name}: only vision transformers have such kernels" for name in self.fused]
        told = [(name, _SWITCHES[name](vit)) for name in self.fused]
        return [f"fused {name}: the library's op runs, since {reason}" for name, reason in told if reason]
