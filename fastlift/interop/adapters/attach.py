"""Adding adapters to a model, taking them out again, and naming what trains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.errors import FastliftWarning, UserError
from fastlift.interop.adapters.blocks import SLOT, adapt, check_halves, check_reached, fuse_activation, restore
from fastlift.interop.adapters.own_weights import OWN_WEIGHTS, check_precision, own_parameters
from fastlift.interop.adapters.sharded import laid_out_as
from fastlift.interop.adapters.sites import AT_SITES, NOT_HERE, WITH_RANK
from fastlift.interop.adapters.towers import Tower, find_tower
from fastlift.models.tuners import TUNERS, resolve_layers
from fastlift.models.tuners.adapter import Adapter, AdapterSettings, AdaptFormer, AdaptFormerSettings
from fastlift.models.tuners.base import named
from fastlift.settings import SIZE, converted
from fastlift.system.memory import check_room, free_bytes
from fastlift.system.settings import SeedSettings

MODULES: dict[str, type[AdaptFormer] | type[Adapter]] = {
    AdaptFormerSettings.NAME: AdaptFormer,
    AdapterSettings.NAME: Adapter,
}
# What can be added to others' models: the NAMEs of fastlift's own tuners, for type checkers.
DropIn = Literal["adaptformer", "adapter", "lora", "lora_mlp", "ssf_attn", "ssf_mlp", "ssf_ln", "bias", "layernorm"]
RANK = 32
_RECORD, _SAVE = "_fastlift_adapters", "save_pretrained"


@dataclass(frozen=True)
class _Asked(SeedSettings):
    """Arguments of ``add_adapters`` that are checked by their declarations."""

    tuner: DropIn = "adaptformer"
    rank: Annotated[int | None, SIZE] = None


@dataclass(frozen=True)
class Attachment:
    """What ``add_adapters`` did to a model, kept on it."""

    tuner: DropIn
    rank: int  # r, the bottleneck's width; 0 where there is none
    layers: tuple[int, ...]  # indices of the blocks with an adapter
    trained: frozenset[str]  # names of the parameters that had ``requires_grad`` before
    originals: dict[str, Tensor] = field(default_factory=dict)  # of the model's own weights that train, by LIFT's names


def add_adapters(
    model: nn.Module,
    tuner: DropIn = "adaptformer",
    *,
    rank: int | None = None,
    layers: int | Sequence[int] | None = None,
    seed: int = 0,
    impl: kernels.Impl | None = None,
) -> dict[str, nn.Parameter]:
    """Put adapters into the vision transformer of ``model``, in place, and freeze everything else.

    ``adaptformer``: y = t + s * (W_up relu(W_down LN_a(t) + b_down) + b_up) + MLP(LN_2(t)), where LN_2, the adapter
    and the residual are one op; ``adapter``: y = t + A(m) with m = MLP(LN_2(t)), A(m) = m + the same bottleneck of m.
    Both start at the frozen model. QuickGELU becomes one pass too. ``lora`` adds x A B / r to queries and values,
    ``lora_mlp`` to both products of the MLP. ``ssf_attn``, ``ssf_mlp`` and ``ssf_ln`` scale and shift the outputs of the
    attention's products, of the MLP's, or of the norms. ``bias`` and ``layernorm`` train the blocks' own biases or
    LayerNorms. The model's own weights keep their names; adapters are at ``BLOCK.fastlift_adapter``. A classifier that shall
    train is unfrozen afterwards: ``model.head.requires_grad_(True)``.

    Args:
        model: of open_clip (CLIP, its ``visual``), timm (VisionTransformer, Eva: EVA02, PE, DINOv3) or transformers (CLIP,
            ViT, DeiT, BEiT, SigLIP 1 and 2, DINOv2 with registers or without, DINOv3, and what is made of their layers).
            Of a CLIP only the vision tower gets adapters. Wrap it (DDP, FSDP2, compile) afterwards.
        tuner: ``adaptformer`` (beside the MLP, LIFT's default), ``adapter`` (after it), ``lora``, ``lora_mlp``,
            ``ssf_attn``, ``ssf_mlp``, ``ssf_ln``, ``bias`` or ``layernorm``.
        rank: bottleneck width r, 32 unless given; an adapter beyond 512 is plain PyTorch. The others have none.
        layers: blocks that get an adapter: all (None), the last k (an integer), or a list of indices.
        seed: of W_down's random start.
        impl: implementation of the adapter's op: None (by device and dtype), ``"reference"`` (plain PyTorch), ``"native"``,
            ``"triton"``.

    Returns:
        what trains, as ``tuner_parameters``; fp32, on the device of its block.

    Raises:
        UserError: adapters that are there already, a model that is not known (the message says what was looked for),
            a rank or layers out of range.
    """
    width = _checked_rank(tuner, rank, seed)
    if holder_of(model) is not None or any(hasattr(part, SLOT) for part in model.modules()):
        raise UserError("this model has adapters already; fastlift.remove_adapters(model) removes them")
    refuse_peft(model)
    tower = find_tower(model)
    chosen = resolve_layers(layers, len(tower.blocks))
    check_room({"rank": 4 * 2 * tower.width * width * len(chosen)}, {"rank": width}, free_bytes())
    trained = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    generator = torch.Generator().manual_seed(seed)
    try:
        with _unmoved(tower):
            check_halves(tower.blocks[chosen[0]], tower.family, f"{tower.path}.{chosen[0]}")
            for i in chosen:
                _attach(tower.blocks[i], tower, tuner, width, generator, impl)
            check_reached(tower.blocks[chosen[0]], tower.family, tuner)
        own = own_parameters(tower.blocks, tower.family.sites, tuner, chosen) if tuner in OWN_WEIGHTS else {}
    except UserError:
        for block in tower.blocks:
            restore(block, tower.family)
        raise
    originals = {name: parameter.detach().clone() for name, parameter in own.items()}
    model.requires_grad_(False)
    if impl != "reference":
        for block in tower.blocks:
            fuse_activation(block, tower.family)
    setattr(model, _RECORD, Attachment(tuner, width, chosen, trained, originals))
    if hasattr(model, _SAVE) and not own:
        setattr(model, _SAVE, partial(_save_pretrained, model))
    found = tuner_parameters(model)
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found


def _unmoved(tower: Tower) -> AbstractContextManager[None]:
    """Keep PyTorch's random numbers where they are: new modules draw from them, and so does a block that drops out."""
    device = next(tower.blocks[0].parameters()).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _checked_rank(tuner: str, rank: int | None, seed: int) -> int:
    """The rank that is meant, 0 for a tuner without one; raises UserError for what cannot be."""
    if tuner in NOT_HERE:
        raise UserError(f"tuner {tuner} cannot be added to another library's model: it {NOT_HERE[tuner]}")
    converted(_Asked, {"tuner": tuner, "rank": rank, "seed": seed})
    if tuner in WITH_RANK:
        return RANK if rank is None else rank
    if rank is not None:
        raise UserError(f"rank: tuner {tuner} has no bottleneck; it is the width of one of {', '.join(WITH_RANK)}")
    return 0


def _attach(
    block: nn.Module, tower: Tower, tuner: str, rank: int, generator: torch.Generator, impl: kernels.Impl | None
) -> None:
    """Put a tuner into one block, on its device."""
    device = next(block.parameters()).device
    if tuner in OWN_WEIGHTS:
        check_precision(own_parameters([block], tower.family.sites, tuner, [0]), tuner)
        block.add_module(SLOT, nn.Module())  # which only marks it
        return
    if tuner in AT_SITES:
        parts = AT_SITES[tuner](block, tower.family.sites, rank, generator)
        block.add_module(SLOT, parts.to(device).train(block.training))
        return
    adapter = MODULES[tuner](tower.width, rank, generator)
    if impl is not None:
        adapter.impl = impl
    adapt(block, adapter.to(device).train(block.training))


def refuse_peft(model: nn.Module) -> None:
    """Raise UserError for a model with PEFT's adapters, which would be frozen in silence."""
    kinds = type(model).__mro__
    layers = (part for part in model.modules() if type(part).__module__.startswith("peft.tuners."))
    if any(kind.__module__.startswith("peft.") for kind in kinds) or next(layers, None) is not None:
        raise UserError(
            f"{type(model).__name__} has adapters of PEFT, which would be frozen: merge them into the weights "
            "(merge_and_unload()) or unload them first, or train with PEFT's alone"
        )


def remove_adapters(model: nn.Module) -> nn.Module:
    """Take the adapters out again: classes, names, state dict keys and ``requires_grad`` are what they were.

    Of ``bias`` and ``layernorm`` the values too.

    Returns:
        the model that they were added to (``model``, or the one inside its wrapper).

    Raises:
        UserError: a model without adapters.
    """
    holder, record, tower = attached(model)
    mine = tuner_parameters(holder)
    with torch.no_grad():
        for name, value in record.originals.items():
            mine[name].copy_(laid_out_as(mine[name], value))
    for block in tower.blocks:
        restore(block, tower.family)
    delattr(holder, _RECORD)
    vars(holder).pop(_SAVE, None)
    for name, parameter in holder.named_parameters():
        parameter.requires_grad_(name in record.trained)
    return holder


def _save_pretrained(model: Any, *arguments: Any, **more: Any) -> Any:
    """transformers' own, with a warning: its ``from_pretrained`` makes a model without the adapters."""
    warnings.warn(
        f"save_pretrained of this {type(model).__name__} does not bring its adapters back: from_pretrained makes the model "
        "without them. fastlift.save_adapters(model, FOLDER) keeps them, and fastlift.load_adapters adds them again",
        FastliftWarning,
        stacklevel=2,
    )
    return type(model).save_pretrained(model, *arguments, **more)


def tuner_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters under the names of LIFT's checkpoints, such as ``adaptformer_list.3.down_proj.weight``.

    Raises:
        UserError: a model without adapters.
    """
    _, record, tower = attached(model)
    if record.tuner in OWN_WEIGHTS:
        return own_parameters(tower.blocks, tower.family.sites, record.tuner, record.layers)
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
