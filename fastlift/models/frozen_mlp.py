"""A block's MLP as one op, where its sites hold what they did at the start and nothing in it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.models.layers import LayerScale, Linear

# What the sites of a block's MLP hold: mlp_in, activation, mlp_out, scale_2, post_mlp.
Sites = tuple[nn.Module, Callable[[Tensor], Tensor], nn.Module, nn.Module, nn.Module]


def frozen_mlp(
    x: Tensor, residual: Tensor, sites: Sites, *, overwrite: bool, impl: kernels.Impl | None
) -> Tensor | None:
    """residual + post_mlp(scale_2(mlp_out(activation(mlp_in(x))))) as one op, or None where it must go site by site.

    ``x`` and ``residual`` are [B, L, D]; with ``overwrite`` the result may lie in the memory of the residual.
    """
    if x.dtype != residual.dtype or not is_plain(sites):
        return None
    mlp_in, activation, mlp_out, scale, _ = sites
    kind = cast(Literal["quick_gelu", "gelu"], _kind(activation))
    gamma = scale.gamma if isinstance(scale, LayerScale) else None
    return kernels.mlp(
        x, *_operands(cast(Linear, mlp_in), x), *_operands(cast(Linear, mlp_out), x), residual,
        kind=kind, scale=gamma, overwrite=overwrite, impl=impl,
    )  # fmt: skip


def is_plain(sites: Sites) -> bool:
    """Whether the sites hold what they did at the start, frozen, with an activation that the op knows."""
    mlp_in, activation, mlp_out, scale, post = sites
    products = type(mlp_in) is type(mlp_out) is Linear and type(post) is nn.Identity
    if not products or type(scale) not in (nn.Identity, LayerScale) or _kind(activation) is None:
        return False
    return not any(_learns(part) for part in (mlp_in, mlp_out, scale))


def _kind(activation: Callable[[Tensor], Tensor]) -> Literal["quick_gelu", "gelu"] | None:
    if activation is kernels.quick_gelu:
        return "quick_gelu"
    return "gelu" if activation is kernels.gelu else None


def _learns(part: nn.Module) -> bool:
    return any(x is not None and x.requires_grad for x in part._parameters.values())


def _operands(linear: Linear, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) in the dtype of ``x``, which frozen ones have already."""
    return linear.weight.to(x.dtype), None if linear.bias is None else linear.bias.to(x.dtype)
