"""One vision transformer for every pre-trained one: frozen weights under one set of names, with sites for tuners.

A pre-norm ViT, whoever trained it, is the same few parts. ``Block`` holds them as replaceable attributes ("sites");
a tuner puts its own module in the place of one, or around it, so that the forward pass has no branch per method:

========== =========================== ==========================================================================
site       default                     who acts there
========== =========================== ==========================================================================
prompts    identity on the tokens      visual prompts
norm_1     LayerNorm                   SSF on norms
qkv        ``QKV``                     LoRA, SSF on attention, masks (through the weight's parametrisation)
out        ``Linear``                  SSF on attention, masks
pre_mlp    ``NormBranch``              AdaptFormer: t -> (LN_2(t), residual), SSF on norms
mlp_in/out ``Linear``                  LoRA in the MLP, SSF on the MLP, masks
post_mlp   identity on the MLP output  serial Adapter
========== =========================== ==========================================================================

Where the head reads only the class token, the last block computes attention output and MLP for that token alone:
no other output of it is ever used, so this is exact.

Legend: B images, L tokens, D width, H heads, M MLP width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.models.frozen_mlp import Sites, frozen_mlp
from fastlift.models.layers import LayerNorm, LayerScale, Linear
from fastlift.models.pooling import Pool
from fastlift.settings import May, Settings

# What backward computes again: nothing, each MLP from its input, or each block from its input.
Checkpointing = Literal["none", "mlp", "block"]


class QKV(Linear):
    """Queries, keys and values in one product; ``queries`` limits the queries to the first tokens."""

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """x [B, L, D] -> (queries, keys and values [B, L, 3D], None), or (keys and values [B, L, 2D], q [B, queries, D])."""
        weight = self.weight.to(x.dtype)  # [3D, D]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if queries is None:
            return F.linear(x, weight, bias), None
        width = x.shape[-1]
        q = F.linear(x[:, :queries], weight[:width], None if bias is None else bias[:width])
        return F.linear(x, weight[width:], None if bias is None else bias[width:]), q


class NormBranch(nn.Module):
    """The site between attention and MLP: t -> (input of the MLP, residual that the MLP's output is added to)."""

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(t), t


class Rotary(nn.Module):
    """Angles of rotary positions (Su et al. 2021; DINOv3's axial form): the patches' queries and keys are turned by them.

    Tokens before ``first`` and behind the patches (class token, registers, visual prompts) have no place and are left
    alone. What turns is ``fastlift_kernels.attention``. ``angles`` gives (sin, cos), [patches, D/H] each, of a grid of
    (rows, columns).
    """

    sin: Tensor  # of each patch's angles, [patches, D/H]
    cos: Tensor

    def __init__(
        self, angles: Callable[[tuple[int, int]], tuple[Tensor, Tensor]], grid: tuple[int, int], first: int
    ) -> None:
        super().__init__()
        self.angles, self.first = angles, first
        sin, cos = angles(grid)
        self.register_buffer("sin", sin)
        self.register_buffer("cos", cos)


class Block(nn.Module):
    """Pre-norm transformer block: t = x + attention(LN_1(x)); y = t + MLP(LN_2(t)), with sites for tuners.

    Where the MLP's sites hold what they did at the start, and it is frozen, MLP and residual are one op. Then a residual that
    ``pre_mlp`` gives, and that is not t itself, may be overwritten.
    """

    mlp_impl: kernels.Impl | None = None  # which implementation of that op runs

    def __init__(
        self,
        *,
        norm_1: LayerNorm,
        qkv: QKV,
        out: Linear,
        norm_2: LayerNorm,
        mlp_in: Linear,
        mlp_out: Linear,
        activation: Callable[[Tensor], Tensor],
        heads: int,
        scale_1: LayerScale | None = None,
        scale_2: LayerScale | None = None,
        rotary: Rotary | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.fused_tokens = 0  # up to how many tokens attention's own kernels run, if asked for (``models/fused.py``)
        self.mlp_width = mlp_in.out_features
        self.activation = activation
        self.prompts: nn.Module = nn.Identity()
        self.norm_1: nn.Module = norm_1
        self.qkv: nn.Module = qkv
        self.out: nn.Module = out
        self.pre_mlp: nn.Module = NormBranch(norm_2)
        self.mlp_in: nn.Module = mlp_in
        self.mlp_out: nn.Module = mlp_out
        self.post_mlp: nn.Module = nn.Identity()
        self.scale_1: nn.Module = scale_1 or nn.Identity()
        self.scale_2: nn.Module = scale_2 or nn.Identity()
        self.rotary = rotary

    def attention(self, x: Tensor, queries: int | None) -> Tensor:
        """Multi-head self-attention of x [B, L, D]; only the first ``queries`` tokens ask, all of them answer."""
        packed, q = self.qkv(self.norm_1(x), queries)
        turn = () if self.rotary is None else (self.rotary.sin, self.rotary.cos, self.rotary.first)
        impl: Literal["triton"] | None = "triton" if packed.shape[1] <= self.fused_tokens else None
        return self.out(kernels.attention(packed, self.heads, q, *turn, causal=self.causal, impl=impl))

    def attend(self, x: Tensor, queries: int | None) -> Tensor:
        """The first half: x [B, L, D] -> t [B, queries or L, D], the residual stream after attention."""
        x = self.prompts(x)
        return x[:, :queries] + self.scale_1(self.attention(x, queries))

    @property
    def mlp_sites(self) -> Sites:
        """What its MLP is made of."""
        return self.mlp_in, self.activation, self.mlp_out, self.scale_2, self.post_mlp

    def transform(self, t: Tensor) -> Tensor:
        """The second half: t [B, L, D] -> t + MLP(LN_2(t)) and whatever a tuner adds."""
        normed, residual = self.pre_mlp(t)
        y = frozen_mlp(normed, residual, self.mlp_sites, overwrite=residual is not t, impl=self.mlp_impl)
        if y is not None:
            return y
        hidden = self.mlp_out(self.activation(self.mlp_in(normed)))
        return residual + self.post_mlp(self.scale_2(hidden))

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """x [B, L, D] -> [B, queries or L, D]."""
        return self.transform(self.attend(x, queries))


@dataclass(frozen=True)
class PromptSite:
    """Where learned tokens go: behind the first ``at`` of ``length`` tokens; ``bound`` of their uniform start."""

    length: int
    at: int
    bound: float


class Tower(nn.Module):
    """Blocks with sites, and what a tuner needs to know of them; ``VisionTransformer`` and ``TextTransformer``."""

    def __init__(self, blocks: list[Block], width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.width = width
        self.compute_dtype = torch.float32

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def block(self, i: int) -> Block:
        return cast(Block, self.blocks[i])

    def prompt_site(self) -> PromptSite:
        """Where learned tokens go."""
        raise NotImplementedError

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Hold frozen weights once in ``dtype``; what trains stays in fp32 and is cast where it is used."""
        self.compute_dtype = dtype
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)


class VisionTransformer(Tower):
    """images [B, 3, height, width], normalised -> features [B, D].

    Args:
        patches: convolution that cuts the image into patches, side by side: its stride is its size.
        prefix: tokens before the patches (class token, registers), [P, D], or None.
        positions: learned positions, [P + patches, D], or [patches, D] where the prefix has none; None where the
            blocks turn queries and keys instead.
        norm_pre: norm before the first block, or identity.
        blocks: the transformer blocks.
        pool: tokens -> features; its ``tokens`` says how many leading tokens it reads (None: all).
        image_size: (height, width) in pixels.
    """

    def __init__(
        self,
        *,
        patches: nn.Conv2d,
        prefix: Tensor | None,
        positions: Tensor | None,
        norm_pre: nn.Module,
        blocks: list[Block],
        pool: Pool,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__(blocks, patches.out_channels)
        self.patches = patches
        self.prefix = None if prefix is None else nn.Parameter(prefix)
        self.positions = None if positions is None else nn.Parameter(positions)
        self.norm_pre = norm_pre
        self.pool = pool
        self.image_size = image_size
        self.activation_checkpointing: Checkpointing = "none"
        self.requires_grad_(False)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        height, width = (size // step for size, step in zip(self.image_size, self.patches.stride, strict=True))
        return height, width

    @property
    def sequence_length(self) -> int:
        """Tokens that enter the first block: prefix and patches, without visual prompts."""
        rows, columns = self.grid
        return rows * columns + (0 if self.prefix is None else len(self.prefix))

    @property
    def longest_sequence(self) -> int:
        """Tokens that attention of the blocks sees at most: with visual prompts."""
        prompts = [block.prompts for block in (self.block(i) for i in range(self.depth))]
        return self.sequence_length + max((len(p) for one in prompts for p in one.parameters()), default=0)

    def prompt_site(self) -> PromptSite:
        """Behind the patches; the bound counts the patches' inputs as fan-in (VPT)."""
        inputs = self.patches.weight[0].numel()  # 3 * patch area
        return PromptSite(self.sequence_length, self.sequence_length, math.sqrt(6.0 / (inputs + self.width)))

    def embed(self, images: Tensor) -> Tensor:
        """images [B, 3, height, width] -> tokens [B, L, D] that enter the first block."""
        dtype = self.compute_dtype
        tokens = self._patches(images.to(dtype))  # [B, patches, D]
        positions = None if self.positions is None else self.positions.to(dtype)
        prefix = None if self.prefix is None else self.prefix.to(dtype).expand(tokens.shape[0], -1, -1)
        if positions is not None and (prefix is None or len(positions) == tokens.shape[1]):
            tokens, positions = tokens + positions, None  # positions for the patches only
        if prefix is not None:
            tokens = torch.cat([prefix, tokens], dim=1)
        return self.norm_pre(tokens if positions is None else tokens + positions)

    def _patches(self, images: Tensor) -> Tensor:
        """The convolution as a matrix product: PyTorch lets cuDNN round fp32 convolutions to TF32, and products not."""
        weight = self.patches.weight.to(images.dtype)
        bias = None if self.patches.bias is None else self.patches.bias.to(images.dtype)
        height, width = self.patches.kernel_size
        rows, columns = images.shape[-2] // height, images.shape[-1] // width
        whole = images[..., : rows * height, : columns * width]  # what is left over makes no patch
        cut = whole.unflatten(-1, (columns, width)).unflatten(-3, (rows, height))
        # [B, 3, rows, height, columns, width]
        cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, patches, 3 * height * width]
        return F.linear(cut, weight.flatten(1), bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for i in range(self.depth):
            queries = self.pool.tokens if i == self.depth - 1 else None
            x = run_block(self.block(i), x, queries, self.activation_checkpointing)
        return self.pool(x)


@dataclass(frozen=True)
class ActivationCheckpointingSettings(Settings):
    """What backward computes again instead of keeping it."""

    recompute: Annotated[Checkpointing, May.CHANGE] = "none"
    """Activation checkpointing: what backward computes again instead of keeping it. Less memory, more time."""

    def build(self, vit: nn.Module) -> None:
        """Set it in a backbone."""
        if isinstance(vit, VisionTransformer):
            vit.activation_checkpointing = self.recompute
        elif self.recompute != "none":
            raise UserError(
                "recompute: only vision transformers have blocks to checkpoint; use a smaller --micro-batch"
            )


def run_block(block: Block, x: Tensor, queries: int | None, kind: Checkpointing) -> Tensor:
    """A block, keeping for backward what ``kind`` says; below the first tuner nothing is kept in any case."""
    if kind == "none" or not torch.is_grad_enabled():
        return block(x, queries)
    if kind == "mlp":
        return checkpoint(block.transform, block.attend(x, queries), use_reentrant=False, preserve_rng_state=False)
    return checkpoint(block, x, queries, use_reentrant=False, preserve_rng_state=False)
