"""LoRA as a folder that ``peft.PeftModel.from_pretrained`` reads: ``adapter_config.json`` and ``adapter_model.safetensors``.

PEFT computes W x + (alpha / R) B (A x) with A [R, in] and B [out, R]; LIFT's LoRA is x A B / r with A [in, r] and B [r, out].
So A and B are transposed, and alpha / R = 1 / r. Where queries, keys and values are one product, the two updates become one
of rank R = 2 r, whose B has zeros where the other part and the keys are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.adapters.sites import Sites
from fastlift.models.tuners import TUNERS
from fastlift.system.files import write_atomically, write_json

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
KNOWN = ("lora", "lora_mlp")
# Update of a product: A [R, in], B [out, R].
Update = tuple[Tensor, Tensor]


def write_peft(
    folder: Path,
    state: Mapping[str, Tensor],
    tuner: str,
    rank: int,
    layers: Sequence[int],
    blocks: str,
    sites: Sites,
    base: str,
) -> None:
    """Write the folder.

    Args:
        state: the tuner's parameters by LIFT's names.
        blocks: path of the list of blocks in the model that PEFT will wrap.
        sites: where the products are in a block of it.
        base: what its library calls the model, or "".

    Raises:
        UserError: a tuner that PEFT does not know, or attention whose weights it cannot reach.
    """
    if tuner not in KNOWN:
        raise UserError(f"PEFT knows no {tuner} as LIFT has it; an adapter of PEFT can be made of {' or '.join(KNOWN)}")
    updates: dict[str, Update] = {}
    for i in layers:
        prefix = f"{TUNERS[tuner].PREFIX}.{i}."
        mine = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for path, update in _updates(mine, tuner, sites).items():
            updates[f"{blocks}.{i}.{path}"] = update
    tensors = {}
    for path, (down, up) in updates.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = up.contiguous()
    joined = next(iter(updates.values()))[0].shape[0]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base or None,
        "r": joined,
        "lora_alpha": joined // rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(updates),
        "inference_mode": True,
    }
    write_atomically(folder / FILE, lambda part: save_file(tensors, str(part), metadata={"format": "pt"}))
    write_json(folder / CONFIG, config)


def _updates(mine: Mapping[str, Tensor], tuner: str, sites: Sites) -> dict[str, Update]:
    """Path below a block -> the update of its product."""
    if tuner == "lora_mlp":
        return {path: _update(mine, part) for part, path in zip(("1", "2"), sites.mlp, strict=True)}
    q, v = _update(mine, "q"), _update(mine, "v")
    if len(sites.qkv) == 3:
        return {sites.qkv[0]: q, sites.qkv[2]: v}
    down = torch.cat([q[0], v[0]])  # [2r, D]
    zeros = torch.zeros_like(q[1])
    up = torch.cat([torch.cat([q[1], zeros, zeros]), torch.cat([zeros, zeros, v[1]])], dim=1)  # [3D, 2r]
    return {sites.qkv[0]: (down, up)}


def _update(mine: Mapping[str, Tensor], part: str) -> Update:
    return mine[f"{part}.lora_A"].T, mine[f"{part}.lora_B"].T
