"""The authors' checkpoints of LIFT and LIFT+, read and written, and what they tell of their settings.

LIFT's files hold ``{"tuner": state, "head": state}``; fastlift keeps what trains under these names itself, so there is
nothing to translate. LIFT+ has names of its own, which ``lift_plus`` translates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.lift_plus import PARTS, from_lift_plus
from fastlift.interop.lift_plus import LiftState as LiftState
from fastlift.models.lift import LiftModel
from fastlift.models.tuners import TUNERS
from fastlift.models.tuners.own_weights import block_weight
from fastlift.models.tuners.prompts import PromptSettings
from fastlift.models.tuners.resnet import RESNET_TUNERS

# timm's names of the same parts, in timm's order.
_TIMM_PARTS = {
    "norm1": "ln_1",
    "attn.qkv": "attn.in_proj",
    "attn.proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}

# Tensors of the head -> tuner on the text side.
_JOINT_TUNERS = {"context": "coop", "image_adapter.down_proj.weight": "clip_adapter", "text_projection": "projection"}
_BIAS = re.compile(r"bias_tuned\.[0-9]{1,6}")


def load_lift_checkpoint(model: LiftModel, source: str | Path | LiftState) -> None:
    """Load the authors' checkpoint, of LIFT or of LIFT+, into a model with the same tuner and classifier, strictly.

    Args:
        model: built with the settings that the checkpoint was trained with (``settings_of`` reads most of them).
        source: path of a ``checkpoint.pth.tar`` (read with weights_only), or its content.

    Raises:
        UserError: not such a file, or tensors that are missing, too many or of another shape (the first ten named).
    """
    state = as_lift_state(source)
    flat = {f"{part}.{name}": tensor for part, tensors in state.items() for name, tensor in tensors.items()}
    for name in [name for name in flat if name.endswith(".mask")]:
        flat[f"{name.removesuffix('.mask')}.index"] = flat.pop(name).flatten().nonzero()[:, 0]
    model.load_trained(flat, "the LIFT checkpoint")


def lift_state(model: LiftModel) -> LiftState:
    """What trains of ``model``, as the authors' LIFT stores it: copies on the CPU, under its names.

    Raises:
        UserError: masks that came from a checkpoint of LIFT+; LIFT's files tell none, it draws them by seed.
    """
    if model.given_masks():
        raise UserError("this model's masks come from a LIFT+ checkpoint: LIFT's files have no place for them")
    parts = {"tuner": model.tuner_parameters, "head": model.head_parameters}
    return {part: {name: p.detach().cpu().clone() for name, p in named.items()} for part, named in parts.items()}


def as_lift_state(source: str | Path | LiftState) -> LiftState:
    """A checkpoint of either program, ``source`` or the file of that path, as ``{"tuner": ..., "head": ...}`` in LIFT's names.

    Masks that a LIFT+ checkpoint holds stay beside the values that they choose, as ``NAME.mask``.

    Raises:
        UserError: not such a file, names that are neither program's, or numbers that are not finite.
    """
    state = source if isinstance(source, dict) else read_checkpoint(Path(source))
    if "tuner" not in state and "head" not in state:
        shown = ", ".join(map(str, list(state)[:5]))
        raise UserError(f"not a LIFT checkpoint: expected the keys 'tuner' and 'head', got {shown}")
    _check_tensors(state)
    if is_lift_plus(state):
        found = from_lift_plus(state["tuner"])
        _check_form(found)
        return found
    found = {part: dict(state.get(part) or {}) for part in ("tuner", "head")}
    _check_form(found)
    return found | {"tuner": _from_timm(found["tuner"])}


def is_lift_plus(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's content (``state``) is LIFT+'s, which keeps no classifier apart."""
    return "head" not in state


def _check_tensors(state: Mapping[str, Any]) -> None:
    count = 0
    for part in ("tuner", "head"):
        tensors = {} if state.get(part) is None else state[part]
        if not isinstance(tensors, Mapping):
            raise UserError(f"not a LIFT checkpoint: {part!r} is no dictionary of tensors")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise UserError(f"not a LIFT checkpoint: {part}.{name} is no tensor")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{part}.{name} holds numbers that are not finite: that training had failed")
        count += len(tensors)
    if not count:
        raise UserError("the checkpoint holds no tensor: nothing was trained")


def _check_form(state: LiftState) -> None:
    """Names have the numbers, and tensors the dimensions, that tuners and sizes are told by."""
    for part, tensors in state.items():
        for name, tensor in tensors.items():
            is_scale, is_matrix = name.endswith("scale"), name.endswith(("down_proj.weight", "lora_A"))
            fits = tensor.dim() == 2 if is_matrix else tensor.dim() > 0 or is_scale
            fits = fits and (tensor.numel() > 0 or not name.endswith(".mask"))
            if not fits or (name.startswith("bias_tuned") and not _BIAS.fullmatch(name)):
                raise UserError(
                    f"not a LIFT checkpoint that can be read: {part}.{name[:100]} of shape {list(tensor.shape)}"
                )


def in_order_of(class_names: Sequence[str], state: LiftState) -> LiftState:
    """``state`` with a classifier of iNaturalist's species, which are in the authors' order, in the order of ``class_names``.

    Both programs number the species by the order of their names, iNaturalist's own files by category.
    """
    if len(state.get("head", {}).get("weight", ())) != len(class_names):
        return state  # nothing there is by class, or it does not fit, which loading tells
    theirs = {name: row for row, name in enumerate(sorted(class_names))}
    rows = torch.tensor([theirs[name] for name in class_names])
    by_class = {name: state["head"][name][rows] for name in ("weight", "bias") if name in state["head"]}
    return state | {"head": state["head"] | by_class}


def _from_timm(tuner: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LIFT names the own weights of ImageNet-21k ViTs as timm does, and counts their biases in timm's order; CLIP's here.

    The order shows in the sizes: the bias of queries, keys and values, which is three times as long as its block's other
    biases but one, comes first in CLIP's blocks and second in timm's.
    """
    counted_by_timm = {"bias_tuned.0", "bias_tuned.1"} <= tuner.keys() and len(tuner["bias_tuned.1"]) == 3 * len(
        tuner["bias_tuned.0"]
    )
    renamed: dict[str, Tensor] = {}
    for name, tensor in tuner.items():
        kind, _, rest = name.partition(".")
        if kind == "bias_tuned" and counted_by_timm:
            block, place = divmod(int(rest), len(PARTS))
            ours = list(PARTS.values()).index(list(_TIMM_PARTS.values())[place])
            name = f"bias_tuned.{len(PARTS) * block + ours}"
        elif kind == "block_tuned":
            match = re.fullmatch(rf"(\d+)\.({'|'.join(map(re.escape, _TIMM_PARTS))})\.(\w+)", rest)
            if match:
                name = block_weight(match[1], _TIMM_PARTS[match[2]], match[3])
        renamed[name] = tensor
    return renamed


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of the authors' file ``path``, tensors alone.

    Raises:
        UserError: no such file, or another kind of it.
    """
    if not path.is_file():
        raise UserError(f"{path} is a folder: name the checkpoint in it" if path.is_dir() else f"{path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; each means that this file is not one of theirs
        raise UserError(f"{path} could not be read as a torch file of tensors ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a LIFT checkpoint: expected a dict with 'tuner' and 'head'")
    return state


def settings_of(state: LiftState) -> dict[str, Any]:
    """The settings of ``create_model`` that a checkpoint (``state``) tells: tuner, rank, layers, prompts, classifier, text side.

    What it cannot tell is left out: which of the classifiers without a bias it was, the seed and share of LIFT's masks
    (LIFT+ stores its), and the words that a context learned among.

    Raises:
        UserError: tuners in different blocks, which one setting cannot say.
    """
    tuner, head = state["tuner"], state["head"]
    image = {name: tensor for name, tensor in tuner.items() if not name.startswith("text.")}
    text = {name.removeprefix("text."): tensor for name, tensor in tuner.items() if name.startswith("text.")}
    found: dict[str, Any] = {"tuner": _tuners_of(image) or ("none",)} | _sizes_of(image)
    text_tuner = (*_tuners_of(text), *(tuner for name, tuner in _JOINT_TUNERS.items() if name in head))
    if text_tuner or ("weight" not in head):
        sizes = _sizes_of(text)
        found = {name: sizes.pop(name) for name in ("sizes", "mask_ratio") if name in sizes} | found  # both towers'
        found |= {f"text_{name}": sizes[name] for name in ("rank", "layers", "prompt_length") if name in sizes}
        found |= {"classifier": "text", "text_tuner": text_tuner or ("none",)}
        if "context" in head:
            found["coop_length"] = len(head["context"])
        if "image_adapter.down_proj.weight" in head:
            found["clip_adapter_rank"] = len(head["image_adapter.down_proj.weight"])
    elif "bias" in head:
        found["classifier"] = "linear"
    return found


def _tuners_of(names: Mapping[str, Tensor]) -> tuple[str, ...]:
    firsts = {name.partition(".")[0] for name in names} - {""}
    found = [kind.NAME for kind in (*TUNERS.values(), *RESNET_TUNERS.values()) if kind.PREFIX in firsts]
    if PromptSettings.PREFIX in firsts:  # of both tuners with prompts
        blocks = {name.split(".")[1] for name in names if name.startswith(f"{PromptSettings.PREFIX}.")}
        found.remove("vpt_deep" if blocks == {"0"} else "vpt_shallow")
    return tuple(found)


def _sizes_of(names: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for name, tensor in names.items():
        if name.endswith("down_proj.weight"):
            sizes["rank"] = len(tensor)
        elif name.endswith("lora_A"):
            sizes["lora_rank"] = tensor.shape[1]
        elif name.endswith(".prompt"):
            sizes["prompt_length"] = len(tensor)
    lora = sizes.get("lora_rank")
    if lora is not None and sizes.setdefault("rank", lora) == lora:
        del sizes["lora_rank"]  # one width says both
    if masks := [(int(mask.sum()), mask.numel()) for name, mask in names.items() if name.endswith(".mask")]:
        # LIFT+'s, which are stored: each chooses int(n * share) of its n entries, with one share for all.
        least, most = max(k / n for k, n in masks), min((k + 1) / n for k, n in masks)
        sizes |= {"sizes": "lift_plus", "mask_ratio": min(1.0, (least + most) / 2)}
    blocks = _blocks_of(names)
    if len(set(blocks.values())) > 1:
        told = ", ".join(f"{tuner} in {list(chosen)}" for tuner, chosen in blocks.items())
        raise UserError(
            f"the checkpoint's tuners are in different blocks, which the setting layers cannot express: {told}"
        )
    if blocks:
        sizes["layers"] = next(iter(blocks.values()))
    return sizes


def _blocks_of(names: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The blocks of each tuner that has a choice; ResNets have none, shallow prompts stand at the first block."""
    found: dict[str, set[int]] = {}
    numbers = sorted(int(name.removeprefix("bias_tuned.")) for name in names if name.startswith("bias_tuned."))
    biases = [names.get(f"bias_tuned.{number}", ()) for number in numbers[:2]]
    counted = len(biases) == 2 and len(biases[0]) == 3 * len(biases[1])  # as CLIP counts, the one of qkv first
    resnets, deep = {kind.PREFIX for kind in RESNET_TUNERS.values()}, "vpt_deep" in _tuners_of(names)
    for name in names:
        first, _, rest = name.partition(".")
        if first in resnets or (first == PromptSettings.PREFIX and not deep):
            continue
        number = int(match[0]) if (match := re.match(r"[0-9]{1,6}(?=\.|$)", rest)) else None
        if number is None or (first == "bias_tuned" and not counted):
            continue
        in_a_block = {"bias_tuned": len(PARTS), "ln_tuned": 2}.get(first, 1)
        found.setdefault(first, set()).add(number // in_a_block)
    return {first: tuple(sorted(blocks)) for first, blocks in found.items()}
