"""Adding adapters to a model, taking them out again, and naming what trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.interop.adapters.blocks import SLOT, AdaptedBlock, adapt, check_halves, fuse_activation, restore
from fastlift.interop.adapters.towers import Tower, find_tower
from fastlift.models.tuners import TUNERS, resolve_layers
from fastlift.models.tuners.adapter import Adapter, AdapterName, AdapterSettings, AdaptFormer, AdaptFormerSettings
from fastlift.models.tuners.base import named
from fastlift.settings import SIZE, converted
from fastlift.system.memory import check_room, free_bytes
from fastlift.system.settings import SeedSettings

MODULES: dict[str, type[AdaptFormer] | type[Adapter]] = {
    AdaptFormerSettings.NAME: AdaptFormer,
    AdapterSettings.NAME: Adapter,
}
_RECORD = "_fastlift_adapters"


@dataclass(frozen=True)
class _Asked(SeedSettings):
    """Arguments of ``add_adapters`` that are checked by their declarations."""

    tuner: AdapterName = "adaptformer"
    rank: Annotated[int, SIZE] = 32


@dataclass(frozen=True)
class Attachment:
    """What ``add_adapters`` did to a model, kept on it."""

    tuner: AdapterName
    rank: int  # r, the bottleneck's width
    layers: tuple[int, ...]  # indices of the blocks with an adapter
    trained: frozenset[str]  # names of the parameters that had ``requires_grad`` before


def add_adapters(
    model: nn.Module,
    tuner: AdapterName = "adaptformer",
    *,
    rank: int = 32,
    layers: int | Sequence[int] | None = None,
    seed: int = 0,
    impl: kernels.Impl | None = None,
) -> dict[str, nn.Parameter]:
    """Put adapters into the vision transformer of ``model``, in place, and freeze everything else.

    ``adaptformer``: y = t + s * (W_up relu(W_down LN_a(t) + b_down) + b_up) + MLP(LN_2(t)), where LN_2, the adapter
    and the residual are one op; ``adapter``: y = t + A(m) with m = MLP(LN_2(t)), A(m) = m + the same bottleneck of m.
    Both start at the frozen model. QuickGELU becomes one pass too. The model's own weights keep their names; the
    adapters are at ``BLOCK.fastlift_adapter``. A classifier that shall train is unfrozen afterwards:
    ``model.head.requires_grad_(True)``.

    Args:
        model: of open_clip (CLIP, its ``visual``), timm (VisionTransformer) or transformers (CLIPModel, CLIPVisionModel,
            ViTModel, ViTForImageClassification, SiglipVisionModel, Dinov2Model and their kin). Of a CLIP only the
            vision tower gets adapters. Wrap it (DDP, compile) afterwards.
        tuner: ``adaptformer`` (beside the MLP, LIFT's default) or ``adapter`` (after it).
        rank: bottleneck width r; beyond 512 the op is plain PyTorch.
        layers: blocks that get an adapter: all (None), the last k (an integer), or a list of indices.
        seed: of W_down's random start.
        impl: implementation of the op: None (by device and dtype), ``"reference"`` (plain PyTorch), ``"native"``, ``"triton"``.

    Returns:
        what trains, as ``tuner_parameters``; fp32, on the device of its block.

    Raises:
        UserError: adapters that are there already, a model that is not known (the message says what was looked for),
            a rank or layers out of range.
    """
    converted(_Asked, {"tuner": tuner, "rank": rank, "seed": seed})
    if holder_of(model) is not None or any(isinstance(part, AdaptedBlock) for part in model.modules()):
        raise UserError("this model has adapters already; fastlift.remove_adapters(model) removes them")
    tower = find_tower(model)
    chosen = resolve_layers(layers, len(tower.blocks))
    check_room({"rank": 4 * 2 * tower.width * rank * len(chosen)}, {"rank": rank}, free_bytes())
    check_halves(tower.blocks[chosen[0]], tower.family, f"{tower.path}.{chosen[0]}")
    trained = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for i in chosen:
        block = tower.blocks[i]
        adapter = MODULES[tuner](tower.width, rank, generator)
        if impl is not None:
            adapter.impl = impl
        adapt(block, adapter.to(next(block.parameters()).device).train(block.training))
    if impl != "reference":
        for block in tower.blocks:
            fuse_activation(block, tower.family)
    setattr(model, _RECORD, Attachment(tuner, rank, chosen, trained))
    return tuner_parameters(model)


def remove_adapters(model: nn.Module) -> nn.Module:
    """Take the adapters out again: classes, names, state dict keys and ``requires_grad`` are what they were.

    Returns:
        the model that they were added to (``model``, or the one inside its wrapper).

    Raises:
        UserError: a model without adapters.
    """
    holder, record, tower = attached(model)
    for block in tower.blocks:
        restore(block, tower.family)
    delattr(holder, _RECORD)
    for name, parameter in holder.named_parameters():
        parameter.requires_grad_(name in record.trained)
    return holder


def tuner_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters under the names of LIFT's checkpoints, such as ``adaptformer_list.3.down_proj.weight``.

    Raises:
        UserError: a model without adapters.
    """
    _, record, tower = attached(model)
    found: dict[str, nn.Parameter] = {}
    for i in record.layers:
        found |= named(f"{TUNERS[record.tuner].PREFIX}.{i}", getattr(tower.blocks[i], SLOT))
    return found


def attached(model: nn.Module) -> tuple[nn.Module, Attachment, Tower]:
    """(the model that has adapters, what was added, its tower), looked up through wrappers such as DDP."""
    holder = holder_of(model)
    if holder is None:
        raise UserError(
            "this model has no adapters; fastlift.add_adapters(model) adds them (pass the model that they were added to)"
        )
    return holder, vars(holder)[_RECORD], find_tower(holder)


def holder_of(model: nn.Module) -> nn.Module | None:
    """The module that adapters were added to, inside wrappers or not; None where there are none."""
    return next((module for module in model.modules() if _RECORD in vars(module)), None)
