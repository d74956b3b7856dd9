"""Adapters as a folder with one file, ``adapters.safetensors``: the tensors, and a description of the base model in its metadata.

One file, so that it is replaced in one step: a kill leaves the old adapters or the new ones. Its digest covers both parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import torch
from torch import Tensor, nn

from fastlift import __version__
from fastlift.errors import UserError
from fastlift.interop.adapters.attach import (
    DropIn,
    add_adapters,
    attached,
    holder_of,
    remove_adapters,
    tuner_parameters,
)
from fastlift.interop.adapters.own_weights import OWN_WEIGHTS, packed, unpacked
from fastlift.interop.adapters.peft_files import write_peft
from fastlift.interop.adapters.sharded import Sharded, laid_out_as, whole
from fastlift.interop.adapters.sites import reached
from fastlift.interop.adapters.towers import Tower, find_tower
from fastlift.models.tuners import TUNERS
from fastlift.models.weights import check_fit
from fastlift.settings.names import one_of
from fastlift.system import sealed

FILE, DESCRIPTION = "adapters.safetensors", "description"
FORMAT: Literal[3] = 3
SavedAs = Literal["fastlift", "peft"]
SAMPLES = 8
HUB = "hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")

Described = TypeVar("Described")
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Base(msgspec.Struct, kw_only=True, frozen=True):
    """The base model in a few words and numbers: enough to notice another one, in whatever dtype."""

    name: str  # what its library calls it, or ""
    kind: str = msgspec.field(name="class")  # library and class
    width: _Count
    depth: _Count
    # Of each block, an even sample of the largest weight of its MLP.
    mlp_samples: list[list[Annotated[float, msgspec.Meta(gt=-1e30, lt=1e30)]]]


class Description(msgspec.Struct, kw_only=True, frozen=True):
    """What ``adapters.safetensors`` says of itself in its metadata."""

    format: Literal[3] = FORMAT
    fastlift: str = __version__
    tuner: DropIn
    rank: _Count
    layers: list[_Count]
    base: Base


def save_adapters(model: nn.Module, folder: str | Path, *, format: SavedAs = "fastlift") -> Path:
    """Write the adapters of ``model`` to ``folder``: a few MB, without the base model and without its classifier.

    Under DDP any process may call it, or all of them. Of a model sharded by FSDP2 (``fully_shard``) all processes call it,
    and the first one writes; what it cannot write is an error of all.

    Args:
        model: with adapters.
        folder: made where it is missing.
        format: ``peft`` writes LoRA (``lora``, ``lora_mlp``) for ``peft.PeftModel.from_pretrained(model, folder)`` instead, with
            this model's names of modules.

    Returns:
        the folder.

    Raises:
        UserError: a format that there is not, a model without adapters, adapters that are not finite, a place that is not a
            folder; for ``peft`` another tuner than LoRA, or attention that PEFT does not reach.
    """
    one_of("format", str(format), get_args(SavedAs))
    holder, record, tower = attached(model)
    parameters = tuner_parameters(holder)
    state = packed({name: whole(p).detach().cpu().contiguous() for name, p in parameters.items()})
    base = Base(
        name=_name(holder),
        kind=f"{type(holder).__module__.split('.')[0]}.{type(holder).__name__}",
        width=tower.width,
        depth=len(tower.blocks),
        mlp_samples=[_samples(block).tolist() for block in tower.blocks],
    )
    described = Description(tuner=record.tuner, rank=record.rank, layers=list(record.layers), base=base)

    def write() -> Path:
        place = as_folder(folder)
        if format == "peft":
            sites = reached(tower.blocks[record.layers[0]], tower.family.sites, record.tuner)
            check_finite(state)
            write_peft(place, state, record.tuner, record.rank, record.layers, tower.path, sites, base.name)
        else:
            write_adapters(place, state, described)
        return place

    if any(isinstance(p, Sharded) for p in parameters.values()):
        _first_writes(write)
        return Path(folder)
    return write()


def _first_writes(write: Callable[[], object]) -> None:
    """Write by the first process; where it fails, all raise, so that none goes on as if there were a file."""
    failed: Exception | None = None
    if torch.distributed.get_rank() == 0:
        try:
            write()
        except Exception as error:
            failed = error
    told: list[str | None] = [None if failed is None else str(failed)]
    torch.distributed.broadcast_object_list(told, src=0)
    if failed is not None:
        raise failed
    if told[0] is not None:
        raise UserError(f"the first process could not save the adapters: {told[0]}", exit_code=1)


def as_folder(place: str | Path) -> Path:
    """A place for adapters; raises UserError where a file is there."""
    folder = Path(place)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder")
    return folder


def check_finite(state: dict[str, Tensor]) -> None:
    """Raise UserError for numbers that are none."""
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(f"{wrong[0]} holds numbers that are not finite: this training failed, so nothing is saved")


def write_adapters(folder: Path, state: dict[str, Tensor], described: Description) -> None:
    """Write the one file of an adapter folder."""
    check_finite(state)
    sealed.write(folder / FILE, state, {DESCRIPTION: json.dumps(msgspec.to_builtins(described), allow_nan=False)})


def load_adapters(model: nn.Module, source: str | Path, *, revision: str | None = None) -> dict[str, nn.Parameter]:
    """Put saved adapters into ``model``, adding them where they are not there yet.

    Args:
        model: the base model that they were trained on, with the same adapters or without any.
        source: a folder, or a Hugging Face hub repository as ``hub:OWNER/NAME`` (downloaded and cached).
        revision: branch, tag or commit of the repository.

    Returns:
        what trains, as ``tuner_parameters``.

    Raises:
        UserError: no such folder or repository, a damaged one, or adapters of another model: other shapes, or the same
            shapes with other weights. The model is then as it was.
    """
    described, state = _read(fetched(str(source), revision, FILE))
    present = holder_of(model)
    if present is None:
        tower = find_tower(model)
        _check_base(model, tower, described.base, source)
        add_adapters(model, described.tuner, rank=described.rank or None, layers=described.layers)
    else:
        _, record, tower = attached(model)
        _check_base(present, tower, described.base, source)
        mine = (record.tuner, record.rank, list(record.layers))
        theirs = (described.tuner, described.rank, described.layers)
        if mine != theirs:
            raise UserError(
                f"{source} holds {theirs[0]} of rank {theirs[1]} in the blocks {theirs[2]}; this model has {mine[0]} "
                f"of rank {mine[1]} in the blocks {mine[2]}: remove_adapters first"
            )
    trained = tuner_parameters(model)
    state = unpacked(state, trained)
    try:
        check_fit(state, {name: p.data for name, p in trained.items()}, f"{source} does not fit this model")
    except UserError:
        if present is None:
            remove_adapters(model)
        raise
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(laid_out_as(parameter, state[name]))
    return trained


def _name(model: Any) -> str:
    """What its library calls a model, or "" (open_clip keeps no name on it)."""
    if name := getattr(getattr(model, "config", None), "_name_or_path", ""):
        return str(name)
    timms = getattr(model, "pretrained_cfg", None) or {}
    return ".".join(filter(None, (timms.get("architecture"), timms.get("tag"))))


def _samples(block: nn.Module) -> Tensor:
    """An even sample of the largest weight of a block's MLP, in fp32."""
    return samples_of(whole(next(p for p in block.get_submodule("mlp").parameters() if p.dim() == 2)))


def samples_of(weight: Tensor) -> Tensor:
    """An even sample of a weight, in fp32."""
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].float().cpu()


def _check_base(model: nn.Module, tower: Tower, base: Base, source: str | Path) -> None:
    called = base.name or base.kind
    if (tower.width, len(tower.blocks)) != (base.width, base.depth):
        raise UserError(
            f"{source} was trained on {called}, a vision transformer of {base.depth} blocks of width {base.width}; "
            f"this {type(model).__name__} has {len(tower.blocks)} blocks of width {tower.width}"
        )
    for i, wanted in enumerate(base.mlp_samples):
        mine = _samples(tower.blocks[i])
        if mine.is_meta or len(mine) != len(wanted):
            continue
        if not torch.allclose(mine, torch.tensor(wanted), rtol=2e-2, atol=1e-4):  # room for bf16, not for other weights
            raise UserError(
                f"{source} was trained on {called}; this {type(model).__name__} has the same shape but other weights "
                f"(block {i} differs), so the adapters mean nothing here"
            )


def fetched(source: str, revision: str | None, name: str) -> Path:
    """The file called ``name`` of ``source``. A path looks like a repository's id, so the hub is asked where it is named alone."""
    repository = source.removeprefix(HUB)
    if repository == source:
        if not Path(source).is_dir():
            kind = "is a file" if Path(source).exists() else "does not exist"
            raise UserError(f"adapters {source}: expected a folder, it {kind} (a hub repository is {HUB}OWNER/NAME)")
        if revision is not None:
            raise UserError(f"adapters {source}: a folder has no revision {revision!r}; only a hub repository has")
        return Path(source) / name
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"adapters {source}: expected {HUB}OWNER/NAME")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # whatever the hub client raises: no network, no such repository, no such file
        raise UserError(
            f"adapters {source} could not be downloaded from the hub ({type(error).__name__}: {str(error)[:200]})",
            exit_code=1,
        ) from error


def _witness(described: Description) -> tuple[str, tuple[int, ...]]:
    """A tensor that each block's tuner has, and its shape, as the description has it."""
    width, rank = described.base.width, described.rank
    return {
        "lora": ("q.lora_A", (width, rank)),
        "lora_mlp": ("1.lora_A", (width, rank)),
        "ssf_attn": ("attn_out.scale", (width,)),
        "ssf_mlp": ("mlp_out.scale", (width,)),
        "ssf_ln": ("ln_1.scale", (width,)),
    }.get(described.tuner, ("down_proj.weight", (rank, width)))


def _read(path: Path) -> tuple[Description, dict[str, Tensor]]:
    """The description of adapters, and tensors that are what it says."""
    if not path.is_file():
        raise UserError(f"{path.parent} is no adapter folder: {path.name} is missing")
    described, state = read_described(path, Description, "adapters")
    # Before anything of the rank that the description names is made. A model's own weights are compared with the model.
    part, wanted = _witness(described)
    witnesses = {f"{TUNERS[described.tuner].PREFIX}.{i}.{part}" for i in described.layers}
    sizes = {tuple(state[name].shape) for name in witnesses & state.keys()}
    fits = described.tuner in OWN_WEIGHTS or (not witnesses - state.keys() and sizes == {wanted})
    if not fits or len(described.base.mlp_samples) != described.base.depth:
        of_rank = f" of rank {described.rank}" if described.rank else ""
        raise UserError(f"{path} does not fit its description: no {described.tuner}{of_rank} is in it")
    check_read(state, path)
    return described, state


def read_described(path: Path, kind: type[Described], what: str) -> tuple[Described, dict[str, Tensor]]:
    """The description in a file of tensors, as a struct of this kind, and the tensors; ``what`` they are, for the message."""
    state, metadata = sealed.read(path)
    try:
        return msgspec.json.decode(metadata.get(DESCRIPTION, ""), type=kind), state
    except msgspec.DecodeError:
        raise UserError(f"{path} holds no description of {what} that this version ({__version__}) can read") from None


def check_read(state: dict[str, Tensor], path: Path) -> None:
    """Raise UserError for numbers in a file that are none."""
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(f"{path}: {wrong[0]} holds numbers that are not finite")
