"""The names of LIFT+'s checkpoints, translated into LIFT's.

LIFT+ stores one ``{"tuner": state}`` in names of its own: those of its first version, and those after attention and MLP
became modules of a block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.tuners.own_weights import block_weight

LiftState = dict[str, dict[str, Tensor]]
"""``{"tuner": ..., "head": ...}``: tensors by LIFT's names."""

# A block's parts in LIFT+'s names -> in OpenAI's, in the order in which the authors number biases.
PARTS = {
    "attn_in": "attn.in_proj",
    "attn_out": "attn.out_proj",
    "norm1": "ln_1",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
    "norm2": "ln_2",
}
_MASKED = r"blocks\.(\d+)\.aft\.((?:attn|mlp)_(?:in|out))\.masked_(weight|bias)"


def from_lift_plus(state: Mapping[str, Tensor]) -> LiftState:
    """LIFT+'s ``tuner`` state in LIFT's names.

    Raises:
        UserError: names that LIFT+ does not use, parts that fastlift does not have (blocks of ResNets), values of a mask
            without the mask.
    """
    tuner: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    unknown: list[str] = []
    whole = {tower: _trains_whole_blocks(state, tower) for tower in ("image_encoder", "text_encoder")}
    for name, tensor in state.items():
        tower, _, rest = name.partition(".")
        if tower == "classifier":
            head[rest] = tensor
        elif (found := _translated(name, _HEAD)) is not None:
            head[found] = tensor
        elif tower in whole and (found := _tuner_name(_as_first_version(rest), whole[tower])) is not None:
            is_adaptformers = found.startswith("adaptformer_list") and found.endswith(".scale")
            prefix = "text." if tower == "text_encoder" else ""
            tuner[prefix + found] = tensor.reshape(1) if is_adaptformers else tensor
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"not a LIFT+ checkpoint that can be read, {len(unknown)} names are unknown: {unknown[:10]}")
    unplaced = [name for name in tuner if ".optimized_" in name and f"{name.removesuffix('.mask')}.mask" not in tuner]
    if unplaced:
        raise UserError(f"a LIFT+ checkpoint whose masks are missing, {len(unplaced)} of them: {unplaced[:10]}")
    return {"tuner": tuner, "head": head}


def _trains_whole_blocks(state: Mapping[str, Tensor], tower: str) -> bool:
    """Whether a tower's own weights train (full fine-tuning), or its biases alone; both are stored by part."""
    inside = (_as_first_version(name.removeprefix(f"{tower}.")) for name in state if name.startswith(f"{tower}."))
    return any(re.fullmatch(rf"blocks\.\d+\.({'|'.join(PARTS)})_weight", name) for name in inside)


def _as_first_version(name: str) -> str:
    """A name inside a tower as LIFT+'s first version has it: ``attn.ssf.in_proj`` was ``ssf.attn_in``, and so on."""
    for pattern, before in _SECOND_VERSION.items():
        name = re.sub(rf"^(blocks\.\d+\.){pattern}", rf"\1{before}", name)
    return name


_SECOND_VERSION = {
    r"(?:attn|mlp)\.(lora|adapter)\.": r"\2.",
    r"(attn|mlp)\.(ssf|aft)\.(in|out)_proj\.": r"\3.\2_\4.",
    r"(attn|mlp)_(in|out)_proj_(weight|bias)$": r"\2_\3_\4",
}


def _tuner_name(name: str, whole: bool) -> str | None:
    """One name inside a tower, without the tower's own."""
    own = re.fullmatch(rf"blocks\.(\d+)\.({'|'.join(PARTS)})_(weight|bias)", name)
    if own is None:
        return _translated(name, _TUNERS)
    if whole:
        return block_weight(own[1], PARTS[own[2]], own[3])
    # Biases alone, numbered through all blocks.
    return f"bias_tuned.{len(PARTS) * int(own[1]) + list(PARTS).index(own[2])}"


def _translated(name: str, names: Mapping[str, str]) -> str | None:
    matches = ((re.fullmatch(pattern, name), ours) for pattern, ours in names.items())
    return next((match.expand(ours) for match, ours in matches if match is not None), None)


# LIFT+'s names -> LIFT's: beside the two towers (CoOp's context, projections, CLIP-Adapters), and inside one.
_HEAD = {
    r"text_encoder\.ctx": r"context",
    r"(image|text)_proj": r"\1_projection",
    r"(image|text)_adapter\.norm\.(weight|bias)": r"\1_adapter.ln.\2",
    r"(image|text)_adapter\.(down|up)\.(weight|bias)": r"\1_adapter.\2_proj.\3",
}
_TUNERS = {
    r"ssf\.(scale|shift)": r"ssf_attn.\1",  # of a ResNet's pooled feature
    r"blocks\.(\d+)\.prompt": r"vpt_list.\1.prompt",
    r"blocks\.(\d+)\.lora\.(q|v)\.down": r"lora_list.\1.\2.lora_A",
    r"blocks\.(\d+)\.lora\.(q|v)\.up": r"lora_list.\1.\2.lora_B",
    r"blocks\.(\d+)\.(adapter|adaptformer)\.norm\.(weight|bias)": r"\2_list.\1.ln.\3",
    r"blocks\.(\d+)\.(adapter|adaptformer)\.(down|up)\.(weight|bias)": r"\2_list.\1.\3_proj.\4",
    r"blocks\.(\d+)\.adaptformer\.scale": r"adaptformer_list.\1.scale",
    r"blocks\.(\d+)\.ssf\.(attn|mlp)_(in|out)\.(scale|shift)": r"ssf_\2_list.\1.\2_\3.\4",
    rf"{_MASKED}\.optimized_params": r"masked_linear_list.\1.\2.optimized_\3",
    rf"{_MASKED}\.mask": r"masked_linear_list.\1.\2.optimized_\3.mask",
}
