"""Writing exported models, checking what was written, and putting the description beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fastlift.data.sampling.crops import EvalCrops
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import mean_logits
from fastlift.interop.export.description import describe
from fastlift.interop.export.formats import FORMATS, KINDS, OPSET, Format, Served, check_packages, format_of
from fastlift.interop.export.serving import serving_model
from fastlift.interop.export.source import Source
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.settings.names import one_of
from fastlift.system.files import write_atomically, write_json

Crops = Literal["none", "fivecrop"]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """Files of an exported model, and the largest difference of its logits from the model's own on random images."""

    format: Format
    model: Path
    description: Path
    difference: float


def export_model(
    model: LiftModel,
    path: str | Path,
    *,
    format: Format = "onnx",
    ensembling: Crops = "none",
    expand: int | None = None,
    opset: int = OPSET,
    overwrite: bool = False,
) -> Exported:
    """Write ``model`` as one file that serves without fastlift, and a JSON beside it that says how to prepare images.

    The file holds the description too, as text under ``fastlift`` (in the metadata of ONNX and AOTInductor) or as
    ``fastlift.json`` (in the archive of the others), so that a kill between the two files leaves a model that is known, and
    never a description beside another's model.

    The file computes normalised images [B, 3, S, S] -> logits [B, C] in fp32 for any B; with ``fivecrop``
    [B, 5, 3, S, S] -> the mean logits. LoRA, SSF and masks are merged into the weights, fused ops are replaced by
    PyTorch's. A calibrated model (``load_run(..., calibrated=True)``) gives calibrated logits, and the description has its
    threshold. After writing it is read back and compared with the model on random images.

    Args:
        path: of the model; the description has ``.json`` behind the same name.
        format: ``onnx``, ``onnx-fp16`` and ``onnx-int8`` for onnxruntime, ``pt2`` for ``torch.export.load(path).module()``,
            ``aoti`` for ``torch._inductor.aoti_load_package(path)`` on CPUs like this one, ``torchscript`` for
            ``torch.jit.load(path)``.
        ensembling: ``fivecrop`` for five crops of each image.
        expand: pixels added to the short side before five crops; default as in ``fastlift evaluate``.
        opset: version of ONNX's operators.

    Raises:
        UserError: a format that there is not, other crops than those of the model's calibration, files that exist already, packages or a compiler that are missing; or (exit
            code 1) a file that does not compute what the model computes.
    """
    one_of("format", str(format), FORMATS)
    one_of("value of ensembling", str(ensembling), get_args(Crops))
    asked = EnsemblingSettings(tte=ensembling, expand=expand)
    if model.calibration is not None:
        model.calibration.check_crops(asked)
    crops = asked.build(model.preprocessing)
    return export_formats(model, {format: Path(path)}, crops, opset=opset, overwrite=overwrite)[0]


def export_formats(
    model: LiftModel, paths: dict[Format, Path], crops: EvalCrops, *, opset: int = OPSET, overwrite: bool = False
) -> list[Exported]:
    """As ``export_model``, in each format that ``paths`` names a file for; nothing is written where one cannot be."""
    check_places(paths, overwrite)
    wanted = _own_logits(model, crops)
    source = Source(serving_model(model, crops.per_image), random_images(crops, batch=2), opset)
    return [_write(model, source, wanted, crops, format, path) for format, path in paths.items()]


def description_of(path: Path) -> Path:
    """Where the description of an exported file lies."""
    return path.with_name(f"{path.name}.json")


def places(
    formats: Sequence[Format], output: Path, ensembling: Crops, *, calibrated: bool = False
) -> dict[Format, Path]:
    """The file of each format: in the folder ``output``, or that file itself where it is one's name.

    Raises:
        UserError: the name of one file for several formats, or one that tells another format.
    """
    if output.is_dir() or not output.suffix:
        stem = "model" + ("" if ensembling == "none" else f"-{ensembling}") + ("-calibrated" if calibrated else "")
        return {format: output / f"{stem}{KINDS[format].ending}" for format in formats}
    if len(formats) > 1:
        raise UserError(f"--output {output} names one file, and there are {len(formats)} formats: name a folder")
    told = format_of(output)
    if told is not None and _family(told) != _family(formats[0]):
        raise UserError(f"--output {output} is the name of a file of the format {told}, not {formats[0]}")
    return {formats[0]: output}


def _family(format: str) -> str:
    """What programs that read a file take it for by its name's last part."""
    return KINDS[format].ending.rpartition(".")[2]


def check_places(paths: dict[Format, Path], overwrite: bool) -> None:
    """Raise UserError where a file would be in the way of something, or a package is missing for its format."""
    for format, path in paths.items():
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file in it for the model")
        there = [str(file) for file in (path, description_of(path)) if file.exists()]
        if there and not overwrite:
            verb = "exists" if len(there) == 1 else "exist"
            raise UserError(f"{' and '.join(there)} {verb} already; use --overwrite, or another --output")
        check_packages(format)


def _write(
    model: LiftModel, source: Source, wanted: dict[int, Tensor], crops: EvalCrops, format: Format, path: Path
) -> Exported:
    kind, description = KINDS[format], description_of(path)
    described = describe(model, crops, path.name, format, source.opset)
    difference = math.nan

    def write_and_compare(part: Path) -> None:
        nonlocal difference
        kind.write(source, part, json.dumps(described, ensure_ascii=False))
        difference = _difference(wanted, kind.open(part, 1), crops, format)
        description.unlink(missing_ok=True)  # of an old model, which must not be left to the new one

    write_atomically(path, write_and_compare)
    write_json(description, described | {"largest_difference": difference})
    return Exported(format, path, description, difference)


def random_images(crops: EvalCrops, batch: int) -> Tensor:
    """Normalised noise [batch, 3, S, S], or [batch, V, 3, S, S] for V crops; always the same."""
    several = () if crops.per_image == 1 else (crops.per_image,)
    return torch.randn(batch, *several, 3, crops.size, crops.size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _own_logits(model: LiftModel, crops: EvalCrops) -> dict[int, Tensor]:
    """The model's logits of random images, in batches of two sizes."""
    device = next(model.parameters()).device
    wanted = {batch: mean_logits(model, random_images(crops, batch).to(device)).cpu() for batch in (1, 3)}
    if not all(logits.isfinite().all() for logits in wanted.values()):
        raise UserError("this model's logits are NaN or infinite: there is nothing to serve", exit_code=1)
    return wanted


@torch.no_grad()
def _difference(wanted: dict[int, Tensor], served: Served, crops: EvalCrops, format: str) -> float:
    each = [(served(random_images(crops, batch)) - logits).abs().max() for batch, logits in wanted.items()]
    largest = float(torch.stack(each).max())  # NaN, if there is one
    share = KINDS[format].share
    if not math.isfinite(largest) and share != 0:
        raise UserError(
            f"{format}: logits are NaN or infinite, since this model's numbers overflow there; it was not kept. "
            "--format onnx is fp32",
            exit_code=1,
        )
    spread = max(float(logits.max() - logits.min()) for logits in wanted.values())
    allowed = math.inf if share is None else max(TOLERANCE, share * spread)
    if not largest <= allowed:
        raise UserError(
            f"the exported file computes other logits than the model: they differ by {largest:.2g}, "
            f"more than {allowed:.2g}; it was not kept",
            exit_code=1,
        )
    return largest
