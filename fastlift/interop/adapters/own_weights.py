"""Tuners that train what a model has already: the biases of its blocks, or their LayerNorms.

Nothing is put into the model. Its own parameters train, under LIFT's names. What they were is kept, so that removing the tuner
brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.interop.adapters.sites import Sites, linear_at, part_at, queries_keys_values, takes_weight
from fastlift.models.tuners import TUNERS
from fastlift.models.tuners.base import named

OWN_WEIGHTS = ("bias", "layernorm")
_APART = ("q", "k", "v")  # behind the name of one tensor of LIFT's, where a library has three


def own_parameters(
    blocks: Sequence[nn.Module], sites: Sites, tuner: str, layers: Sequence[int]
) -> dict[str, nn.Parameter]:
    """The parameters of the chosen blocks that ``tuner`` trains, numbered through all blocks as LIFT's are.

    Raises:
        UserError: blocks without them.
    """
    prefix, found, number = TUNERS[tuner].PREFIX, dict[str, nn.Parameter](), 0
    for i, block in enumerate(blocks):
        if tuner == "layernorm":
            for place, path in enumerate(sites.norms if i in layers else ()):
                found |= named(f"{prefix}.{2 * i + place}", part_at(block, path))
            continue
        for biases in _biases(block, sites):
            if i in layers:
                ends = [""] if len(biases) == 1 else [f".{end}" for end in _APART]
                found |= {f"{prefix}.{number}{end}": bias for end, bias in zip(ends, biases, strict=True)}
            number += 1
    if not found:
        raise UserError(f"tuner {tuner}: {type(blocks[0]).__name__} has none")
    return found


def check_precision(found: Mapping[str, nn.Parameter], tuner: str) -> None:
    """Raise UserError for own parameters in another precision than training needs."""
    if rounded := [name for name, parameter in found.items() if parameter.dtype not in (torch.float32, torch.float64)]:
        raise UserError(
            f"tuner {tuner} trains the model's own weights, and {rounded[0]} is {found[rounded[0]].dtype}, which rounds small "
            "steps away: give the model in float32, and compute under torch.autocast"
        )


def _biases(block: nn.Module, sites: Sites) -> list[list[Any]]:
    """The biases that a block has, in LIFT's order; those of queries, keys and values are one or three."""
    attention: list[Any] = queries_keys_values(block, sites, "bias")
    if takes_weight(block, sites.qkv[0]):
        raise UserError(f"tuner bias: the attention of {type(block).__name__} has biases of queries and values alone")
    first = attention[0]
    qkv = [first.in_proj_bias] if isinstance(first, nn.MultiheadAttention) else [part.bias for part in attention]
    if len({bias is None for bias in qkv}) > 1:
        raise UserError(f"tuner bias: of queries, keys and values of {type(block).__name__}, not all have a bias")
    mlp = [linear_at(block, path, "bias").bias for path in sites.mlp]
    norms = [part_at(block, path).bias for path in sites.norms]
    single = [linear_at(block, sites.out, "bias").bias, norms[0], *mlp, norms[1]]
    return [*([] if qkv[0] is None else [qkv]), *([bias] for bias in single if bias is not None)]


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With queries, keys and values as one tensor, as LIFT has them."""
    found = dict(state)
    for name in [name for name in state if name.endswith(f".{_APART[0]}") and _is_own(name)]:
        stem = name.rpartition(".")[0]
        found[stem] = torch.cat([found.pop(f"{stem}.{end}") for end in _APART])
    return found


def unpacked(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """With queries, keys and values as three tensors where these are wanted."""
    found = dict(state)
    for name in wanted:
        stem, _, end = name.rpartition(".")
        if end == _APART[0] and _is_own(name) and stem in found:
            parts = found.pop(stem).chunk(len(_APART))
            found |= {f"{stem}.{end}": part for end, part in zip(_APART, parts, strict=False)}
    return found


def _is_own(name: str) -> bool:
    return name.startswith(f"{TUNERS['bias'].PREFIX}.")
