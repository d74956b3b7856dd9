"""One vision transformer for every pre-trained one: frozen weights under one set of names, with sites for tuners.

A pre-norm ViT, whoever trained it, is the same few parts. ``Block`` holds them as replaceable attributes ("sites");
a tuner puts its own module in the place of one, or around it, so that the forward pass has no branch per method:

========== =========================== ==========================================================================
site       default                     who acts there
========== =========================== ==========================================================================
enter      identity on the tokens      visual prompts
norm_1     LayerNorm                   SSF on norms
qkv        ``QKV``                     LoRA, SSF on attention, masks (through the weight's parametrisation)
out        ``Linear``                  SSF on attention, masks
branch     ``NormBranch``              AdaptFormer: t -> (LN_2(t), residual), SSF on norms
mlp_in/out ``Linear``                  LoRA in the MLP, SSF on the MLP, masks
leave      identity on the MLP output  serial Adapter
========== =========================== ==========================================================================

Where the head reads only the class token, the last block computes attention output and MLP for that token alone:
no other output of it is ever used, so this is exact.

Legend: B images, L tokens, D width, H heads, M MLP width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """y = x W^T + b in the dtype of x; trained weights are kept in fp32 and cast, frozen ones already fit."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of x (statistics in fp32 inside PyTorch's kernel)."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class LayerScale(nn.Module):
    """y = gamma * x, per channel (CaiT; used by DINOv2)."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.to(x.dtype)


class QKV(Linear):
    """Queries, keys and values in one product; ``queries`` limits the queries to the first tokens."""

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """x [B, L, D] -> q [B, queries or L, D], k and v [B, L, D]."""
        weight = self.weight.to(x.dtype)  # [3D, D]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if queries is None:
            q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
            return q, k, v
        width = x.shape[-1]
        q = F.linear(x[:, :queries], weight[:width], None if bias is None else bias[:width])
        k, v = F.linear(x, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
        return q, k, v


class NormBranch(nn.Module):
    """The site between attention and MLP: t -> (input of the MLP, residual that the MLP's output is added to)."""

    def __init__(self, norm: LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(t), t


class Block(nn.Module):
    """Pre-norm transformer block: t = x + attention(LN_1(x)); y = t + MLP(LN_2(t)), with sites for tuners."""

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
    ) -> None:
        super().__init__()
        self.heads = heads
        self.mlp_width = mlp_in.out_features
        self.activation = activation
        self.enter: nn.Module = nn.Identity()
        self.norm_1: nn.Module = norm_1
        self.qkv: nn.Module = qkv
        self.out: nn.Module = out
        self.branch: nn.Module = NormBranch(norm_2)
        self.mlp_in: nn.Module = mlp_in
        self.mlp_out: nn.Module = mlp_out
        self.leave: nn.Module = nn.Identity()
        self.scale_1: nn.Module = scale_1 or nn.Identity()
        self.scale_2: nn.Module = scale_2 or nn.Identity()

    def attention(self, x: Tensor, queries: int | None) -> Tensor:
        """Multi-head self-attention of x [B, L, D]; only the first ``queries`` tokens ask, all of them answer."""
        q, k, v = self.qkv(self.norm_1(x), queries)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # [B, H, L, D/H]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(-2))

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """x [B, L, D] -> [B, queries or L, D]."""
        x = self.enter(x)
        t = x[:, :queries] + self.scale_1(self.attention(x, queries))
        normed, residual = self.branch(t)
        hidden = self.mlp_out(self.activation(self.mlp_in(normed)))
        return residual + self.leave(self.scale_2(hidden))


class ClassTokenPool(nn.Module):
    """Features are the class token after the last norm."""

    tokens: int | None = 1

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x[:, 0])


class MeanPool(nn.Module):
    """Features are the mean of ``count`` tokens from ``first`` on, normalised before (``norm``) or after the mean.

    The range leaves out prefix tokens where the model was trained so, and visual prompts always.
    """

    tokens: int | None = None

    def __init__(self, norm: nn.Module, norm_after: nn.Module, *, first: int, count: int) -> None:
        super().__init__()
        self.norm, self.norm_after, self.first, self.count = norm, norm_after, first, count

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_after(self.norm(x[:, self.first : self.first + self.count]).mean(dim=1))


class LatentPool(nn.Module):
    """Features come from a learned query that attends to the same range of tokens (SigLIP's MAP head, timm's module)."""

    tokens: int | None = None

    def __init__(self, norm: nn.Module, pool: nn.Module, norm_after: nn.Module, *, first: int, count: int) -> None:
        super().__init__()
        self.norm, self.pool, self.norm_after, self.first, self.count = norm, pool, norm_after, first, count

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_after(self.pool(self.norm(x[:, self.first : self.first + self.count])))


class VisionTransformer(nn.Module):
    """images [B, 3, height, width], normalised -> features [B, D].

    Args:
        patches: convolution that cuts the image into patches.
        prefix: tokens before the patches (class token, registers), [P, D], or None.
        positions: learned positions, [P + patches, D], or [patches, D] where the prefix has none.
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
        positions: Tensor,
        norm_pre: nn.Module,
        blocks: list[Block],
        pool: ClassTokenPool | MeanPool | LatentPool,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.patches = patches
        self.prefix = None if prefix is None else nn.Parameter(prefix)
        self.positions = nn.Parameter(positions)
        self.norm_pre = norm_pre
        self.blocks = nn.ModuleList(blocks)
        self.pool = pool
        self.image_size = image_size
        self.compute_dtype = torch.float32
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        return self.positions.shape[1]

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def sequence_length(self) -> int:
        """Tokens that enter the first block: prefix and patches, without visual prompts."""
        rows, columns = (size // step for size, step in zip(self.image_size, self.patches.stride, strict=True))
        return rows * columns + (0 if self.prefix is None else len(self.prefix))

    def block(self, i: int) -> Block:
        return cast(Block, self.blocks[i])

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Hold frozen weights once in ``dtype``; what trains stays in fp32 and is cast where it is used."""
        self.compute_dtype = dtype
        for parameter in self.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)

    def embed(self, images: Tensor) -> Tensor:
        """images [B, 3, height, width] -> tokens [B, L, D] that enter the first block."""
        dtype = self.compute_dtype
        bias = None if self.patches.bias is None else self.patches.bias.to(dtype)
        weight = self.patches.weight.to(dtype)
        grid = F.conv2d(images.to(dtype), weight, bias, stride=cast(tuple[int, int], self.patches.stride))
        tokens = grid.flatten(2).transpose(1, 2)  # [B, patches, D]
        positions = self.positions.to(dtype)
        prefix = None if self.prefix is None else self.prefix.to(dtype).expand(len(tokens), -1, -1)
        if prefix is None:
            tokens = tokens + positions
        elif len(positions) == tokens.shape[1]:  # positions for the patches only
            tokens = torch.cat([prefix, tokens + positions], dim=1)
        else:
            tokens = torch.cat([prefix, tokens], dim=1) + positions
        return self.norm_pre(tokens)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.pool(self.blocks[-1](x, self.pool.tokens))
