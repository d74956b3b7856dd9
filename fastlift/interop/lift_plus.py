"""The names of LIFT+'s checkpoints, translated into LIFT's.

LIFT+ stores one ``{"tuner": state}`` in names of its own: those of its first version, and those after attention and MLP
became modules of a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.tuners.own_weights import block_weight

LiftState = dict[str, dict[str, Tensor]]

# A block's parts in LIFT+'s names -> in OpenAI's, in the order in which the authors number biases.
PARTS = {
    "attn_in": "attn.in_proj",
    "attn_out": "attn.out_proj",
    "norm1": "ln_1",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
    "norm2": "ln_2",
}
_BOTTLENECK = {"norm": "ln", "down": "down_proj", "up": "up_proj"}


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
        elif (found := _head_name(name)) is not None:
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


def _head_name(name: str) -> str | None:
    """Names beside the two towers: CoOp's context, projections, CLIP-Adapters."""
    plain = {"text_encoder.ctx": "context", "image_proj": "image_projection", "text_proj": "text_projection"}
    if name in plain:
        return plain[name]
    match = re.fullmatch(r"((?:image|text)_adapter)\.(norm|down|up)\.(weight|bias)", name)
    return None if match is None else f"{match[1]}.{_BOTTLENECK[match[2]]}.{match[3]}"


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
    if name in ("ssf.scale", "ssf.shift"):  # of a ResNet's pooled feature
        return f"ssf_attn.{name.partition('.')[2]}"
    for pattern, rename in _RULES.items():
        match = re.fullmatch(rf"blocks\.(\d+)\.{pattern}", name)
        if match:
            return rename(int(match[1]), match, whole)
    return None


def _own_weight(i: int, match: re.Match[str], whole: bool) -> str:
    part, kind = match[2], match[3]
    if not whole:  # biases alone, numbered through all blocks
        return f"bias_tuned.{len(PARTS) * i + list(PARTS).index(part)}"
    return block_weight(i, PARTS[part], kind)


_RULES: dict[str, Callable[[int, re.Match[str], bool], str]] = {
    rf"({'|'.join(PARTS)})_(weight|bias)": _own_weight,
    r"prompt": lambda i, m, _: f"vpt_list.{i}.prompt",
    r"lora\.(q|v)\.(down|up)": lambda i, m, _: f"lora_list.{i}.{m[2]}.lora_{'A' if m[3] == 'down' else 'B'}",
    r"(adapter|adaptformer)\.(norm|down|up)\.(weight|bias)": lambda i, m, _: (
        f"{m[2]}_list.{i}.{_BOTTLENECK[m[3]]}.{m[4]}"
    ),
    r"adaptformer\.scale": lambda i, m, _: f"adaptformer_list.{i}.scale",
    r"ssf\.(attn|mlp)_(in|out)\.(scale|shift)": lambda i, m, _: f"ssf_{m[2]}_list.{i}.{m[2]}_{m[3]}.{m[4]}",
    r"aft\.(attn_in|attn_out|mlp_in|mlp_out)\.masked_(weight|bias)\.(optimized_params|mask)": lambda i, m, _: (
        f"masked_linear_list.{i}.{m[2]}.optimized_{m[3]}" + (".mask" if m[4] == "mask" else "")
    ),
}
