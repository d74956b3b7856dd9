"""A run's tuner as an adapter folder: for the same backbone in timm, open_clip and transformers, or as LoRA for PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.adapters import peft_files
from fastlift.interop.adapters.attach import DropIn
from fastlift.interop.adapters.families import FAMILIES, Family
from fastlift.interop.adapters.heads import write_classifier
from fastlift.interop.adapters.peft_files import write_peft
from fastlift.interop.adapters.sites import NOT_HERE, WITH_RANK
from fastlift.interop.adapters.store import FILE, Base, Description, as_folder, check_finite, samples_of, write_adapters
from fastlift.models.lift import LiftModel
from fastlift.models.tuners import resolve_layers
from fastlift.models.vit import VisionTransformer
from fastlift.settings.names import one_of

# Models of other libraries that PEFT can wrap: path of the blocks, and how these work.
Layout = Literal["timm", "CLIPModel", "CLIPVisionModel"]
LAYOUTS: dict[Layout, tuple[str, Family]] = {
    "timm": ("blocks", FAMILIES["Block", "timm"]),
    "CLIPModel": ("vision_model.encoder.layers", FAMILIES["CLIPEncoderLayer", "transformers"]),
    "CLIPVisionModel": ("encoder.layers", FAMILIES["CLIPEncoderLayer", "transformers"]),
}


def save_run_adapters(model: LiftModel, folder: str | Path, *, base: str = "", peft: Layout | None = None) -> Path:
    """Write what a run trained inside its backbone as a folder that ``fastlift.load_adapters`` adds to another library's model.

    Its classifier is beside them, with the names of the classes, for ``fastlift.load_classifier``.

    Args:
        model: of ``fastlift.load_run``.
        folder: made where it is missing.
        base: what the backbone is called, for messages.
        peft: write a folder of PEFT's instead, for that model: timm's, or transformers' ``CLIPModel`` or ``CLIPVisionModel``.

    Returns:
        the folder.

    Raises:
        UserError: a run without a tuner, with several, or with one that cannot be added to others' models; for ``peft``
            another than LoRA, or a model that is none of these; a place that is not a folder.
    """
    if peft is not None:
        one_of("model for peft", str(peft), LAYOUTS)
    folder = as_folder(folder)
    tuner, vit = _one_tuner(model), model.vit
    assert isinstance(vit, VisionTransformer)
    state = {name: p.detach().cpu().contiguous() for name, p in model.tuner_parameters.items()}
    layers = list(resolve_layers(model.tuner_settings.layers, vit.depth))
    rank = _rank(state, tuner)
    if peft is not None:
        check_finite(state)
        blocks, family = LAYOUTS[peft]
        write_peft(folder, state, tuner, rank, layers, blocks, family.sites, base)
        write_classifier(model, folder / peft_files.FILE)
        return folder
    samples = [samples_of(_own_weight(vit.block(i).mlp_in)).cpu().tolist() for i in range(vit.depth)]
    origin = Base(name=base, kind="fastlift.LiftModel", width=vit.width, depth=vit.depth, mlp_samples=samples)
    write_adapters(folder, state, Description(tuner=tuner, rank=rank, layers=layers, base=origin))
    write_classifier(model, folder / FILE)
    return folder


def _one_tuner(model: LiftModel) -> DropIn:
    names = [name for name in model.tuner_settings.tuner if name != "none"]
    known = get_args(DropIn)
    if not isinstance(model.vit, VisionTransformer):
        raise UserError("this run's backbone is a CLIP ResNet; adapters are added to transformer blocks")
    if len(names) != 1:
        told = f"trained {', '.join(names)} together" if names else "trained nothing inside its backbone"
        raise UserError(f"this run {told}; an adapter folder holds one tuner of {', '.join(known)}")
    if names[0] in NOT_HERE:
        raise UserError(f"this run's tuner {names[0]} cannot leave as adapters: it {NOT_HERE[names[0]]}")
    return next(name for name in known if name == names[0])


def _rank(state: dict[str, Tensor], tuner: str) -> int:
    if tuner not in WITH_RANK:
        return 0
    if tuner in ("lora", "lora_mlp"):
        return next(value for name, value in state.items() if name.endswith("lora_A")).shape[1]
    return next(value for name, value in state.items() if name.endswith("down_proj.weight")).shape[0]


def _own_weight(site: Any) -> Tensor:
    """The backbone's weight at a site, behind what tuners put around it."""
    while hasattr(site, "inner"):
        site = site.inner
    return site.weight
