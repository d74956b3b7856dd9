"""What a checkpoint tells of the settings that it was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.lift_plus import PARTS, LiftState


def settings_of(state: LiftState) -> dict[str, Any]:
    """The settings of ``create_model`` that a checkpoint tells: tuner, rank, layers, prompts, classifier, text side.

    What it cannot tell is left out: which of the classifiers without a bias it was, the seed and share of LIFT's masks
    (LIFT+ stores its), and the words that a context learned among.

    Raises:
        UserError: tuners in different blocks, which one setting cannot say.
    """
    tuner, head = state["tuner"], state["head"]
    image = {name: tensor for name, tensor in tuner.items() if not name.startswith("text.")}
    text = {name.removeprefix("text."): tensor for name, tensor in tuner.items() if name.startswith("text.")}
    found: dict[str, Any] = {"tuner": _tuners_of(image) or ("none",)} | _sizes_of(image)
    text_tuner = (*_tuners_of(text), *_joint_tuners_of(head))
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


# First parts of LIFT's names -> tuner.
_KINDS = {
    "adaptformer_list": "adaptformer",
    "adapter_list": "adapter",
    "lora_list": "lora",
    "lora_mlp_list": "lora_mlp",
    "ssf_attn_list": "ssf_attn",
    "ssf_mlp_list": "ssf_mlp",
    "ssf_ln_list": "ssf_ln",
    "bias_tuned": "bias",
    "ln_tuned": "layernorm",
    "block_tuned": "full",
    "masked_linear_list": "mask",
    "full_list": "full",
    "bias_list": "bias",
    "bn_list": "batchnorm",
    "ssf_attn": "ssf",
}


def _tuners_of(names: Mapping[str, Tensor]) -> tuple[str, ...]:
    firsts = {name.partition(".")[0] for name in names}
    found = [tuner for first, tuner in _KINDS.items() if first in firsts]
    if "vpt_list" in firsts:
        blocks = {name.split(".")[1] for name in names if name.startswith("vpt_list.")}
        found.append("vpt_shallow" if blocks == {"0"} else "vpt_deep")
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
    sizes |= _share_of_masks(names)
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
    biases = [names.get(f"bias_tuned.{number}", ()) for number in _first_biases(names)]
    counted = len(biases) == 2 and len(biases[0]) == 3 * len(biases[1])  # as CLIP counts, the one of qkv first
    deep = "vpt_deep" in _tuners_of(names)
    for name in names:
        first, _, rest = name.partition(".")
        if first in ("full_list", "bias_list", "bn_list", "ssf_attn") or (first == "vpt_list" and not deep):
            continue
        number = int(match[0]) if (match := re.match(r"[0-9]{1,6}(?=\.|$)", rest)) else None
        if number is None or (first == "bias_tuned" and not counted):
            continue
        in_a_block = {"bias_tuned": len(PARTS), "ln_tuned": 2}.get(first, 1)
        found.setdefault(first, set()).add(number // in_a_block)
    return {first: tuple(sorted(blocks)) for first, blocks in found.items()}


def _first_biases(names: Mapping[str, Tensor]) -> list[int]:
    """Numbers of the first two biases that train."""
    return sorted(int(name.removeprefix("bias_tuned.")) for name in names if name.startswith("bias_tuned."))[:2]


def _share_of_masks(names: Mapping[str, Tensor]) -> dict[str, Any]:
    """The share that LIFT+'s stored masks have in common: each chooses int(n * share) of its n entries."""
    masks = [(int(mask.sum()), mask.numel()) for name, mask in names.items() if name.endswith(".mask")]
    if not masks:
        return {}
    least, most = max(k / n for k, n in masks), min((k + 1) / n for k, n in masks)
    return {"sizes": "lift_plus", "mask_ratio": min(1.0, (least + most) / 2)}


def _joint_tuners_of(head: Mapping[str, Tensor]) -> tuple[str, ...]:
    signs = {"context": "coop", "image_adapter.down_proj.weight": "clip_adapter", "text_projection": "projection"}
    return tuple(tuner for name, tuner in signs.items() if name in head)
