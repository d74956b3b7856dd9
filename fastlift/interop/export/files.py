"""Writing, checking and describing exported models."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastlift import __version__
from fastlift.data.sampling.crops import EvalCrops
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import mean_logits
from fastlift.interop.export.serving import ServingModel, serving_model
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.system.files import write_atomically, write_json

Format = Literal["onnx", "pt2"]
Crops = Literal["none", "fivecrop"]
OPSET = 18
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """Files of an exported model, and the largest difference of its logits from the model's own."""

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
    overwrite: bool = False,
) -> Exported:
    """Write ``model`` as one file that serves without fastlift, and a JSON beside it that says how to prepare images.

    The file holds the description too, as text under ``fastlift`` (ONNX) or ``fastlift.json`` (pt2), so that a kill between
    the two files leaves a model that is known, and never a description beside another's model.

    The file computes normalised images [B, 3, S, S] -> logits [B, C] in fp32 for any B; with ``fivecrop``
    [B, 5, 3, S, S] -> the mean logits. LoRA, SSF and masks are merged into the weights, fused ops are replaced by
    PyTorch's. After writing it is read back and compared with the model on random images.

    Args:
        path: of the model; the description gets the same name with ``.json``.
        format: ``onnx`` (opset 18, checked with onnxruntime) or ``pt2`` (``torch.export.load(path).module()``).
        ensembling: ``fivecrop`` for five crops of each image.
        expand: pixels added to the short side before five crops; default as in ``fastlift evaluate``.

    Raises:
        UserError: files that exist already, packages that are missing; or (exit code 1) a file that does not compute
            what the model computes.
    """
    path = Path(path)
    description = path.with_suffix(".json")
    if path.suffix == ".json":
        raise UserError(f"{path}: the name of the model must not end in .json, which its description takes")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it for the model")
    there = [str(file) for file in (path, description) if file.exists()]
    if there and not overwrite:
        raise UserError(
            f"{' and '.join(there)} {'exists' if len(there) == 1 else 'exist'} already; use --overwrite, or another --output"
        )
    if format == "onnx":
        _need_onnx()
    crops = EnsemblingSettings(tte=ensembling, expand=expand).build(model.preprocessing)
    wanted = _own_logits(model, crops)
    serving = serving_model(model, crops.per_image)
    images = _random_images(crops, batch=2)
    program = _program(serving, images)
    described = describe(model, crops, path.name, format)
    write, read = (_write_onnx, _read_onnx) if format == "onnx" else (_write_pt2, _read_pt2)
    difference = math.nan

    def write_and_compare(part: Path) -> None:
        nonlocal difference
        write(program, images, part, json.dumps(described, ensure_ascii=False))
        difference = _difference(wanted, read(part), crops)
        description.unlink(missing_ok=True)  # of an old model, which must not be left to the new one

    write_atomically(path, write_and_compare)
    write_json(description, described | {"largest_difference": difference})
    return Exported(path, description, difference)


def describe(model: LiftModel, crops: EvalCrops, file: str, format: str) -> dict[str, Any]:
    """All that a server needs to know beside the file: input, output, classes, and every step of the preprocessing."""
    size, count = crops.size, crops.per_image
    corners = [["0", "0"], ["width - size", "0"], ["0", "height - size"], ["width - size", "height - size"]]
    centre = ["round((width - size) / 2)", "round((height - size) / 2)"]
    shape = ["batch", 3, size, size] if count == 1 else ["batch", count, 3, size, size]
    return {
        "format": 1,
        "fastlift": __version__,
        "file": file,
        "kind": format,
        "input": {"name": "images", "shape": shape, "dtype": "float32"},
        "output": {"name": "logits", "shape": ["batch", len(model.class_names)], "dtype": "float32"},
        "classes": list(model.class_names),
        "preprocessing": {
            "colour": "RGB, without EXIF rotation",
            "short_side": crops.short_side,
            "resize": "width = width * short_side // short, height = height * short_side // short, "
            "with short = min(width, height) of the image",
            "interpolation": f"{crops.interpolation}, antialiased",
            "size": size,
            "crops": [centre] if count == 1 else [*corners, centre],
            "crops_are": "left and top of squares of `size` pixels; round is to the nearest even number at a half",
            "normalise": "(value / 255 - mean) / std",
            "mean": list(model.preprocessing.mean),
            "std": list(model.preprocessing.std),
        },
    }


def _random_images(crops: EvalCrops, batch: int) -> Tensor:
    several = () if crops.per_image == 1 else (crops.per_image,)
    return torch.randn(batch, *several, 3, crops.size, crops.size, generator=torch.Generator().manual_seed(0))


def _program(serving: ServingModel, images: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    # strict: the tracer that keeps the length of a tensor symbolic
    program = torch.export.export(serving, (images,), dynamic_shapes={"images": {0: batch}}, strict=True)
    own = {
        str(node.target) for node in program.graph.nodes if "fastlift" in str(node.target) and node.op != "placeholder"
    }
    if own:
        raise RuntimeError(f"the exported graph still has fastlift's own ops: {', '.join(sorted(own))}")
    return program


def _need_onnx() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"export to ONNX needs {', '.join(missing)}: pip install 'fastlift[onnx]'")


def _write_onnx(program: torch.export.ExportedProgram, images: Tensor, path: Path, description: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        exported = torch.onnx.export(
            program, (images,), input_names=["images"], output_names=["logits"], opset_version=OPSET, verbose=False
        )
    assert exported is not None
    exported.model.metadata_props["fastlift"] = description
    exported.save(str(path), external_data=False)


def _write_pt2(program: torch.export.ExportedProgram, images: Tensor, path: Path, description: str) -> None:
    buffer = io.BytesIO()  # by name, PyTorch would insist on the suffix .pt2, which the temporary file has not
    torch.export.save(program, buffer, extra_files={"fastlift.json": description})
    path.write_bytes(buffer.getvalue())


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # enough for a few images, and it cannot fail to start others
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _read_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


@torch.no_grad()
def _own_logits(model: LiftModel, crops: EvalCrops) -> dict[int, Tensor]:
    """The model's logits of random images, in batches of two sizes."""
    device = next(model.parameters()).device
    wanted = {batch: mean_logits(model, _random_images(crops, batch).to(device)).cpu() for batch in (1, 3)}
    if not all(logits.isfinite().all() for logits in wanted.values()):
        raise UserError("this model's logits are NaN or infinite: there is nothing to serve", exit_code=1)
    return wanted


@torch.no_grad()
def _difference(wanted: dict[int, Tensor], served: Callable[[Tensor], Tensor], crops: EvalCrops) -> float:
    each = [(served(_random_images(crops, batch)) - logits).abs().max() for batch, logits in wanted.items()]
    largest = float(torch.stack(each).max())  # NaN, if there is one
    if not largest <= TOLERANCE:
        raise UserError(
            f"the exported file computes other logits than the model: they differ by {largest:.2g}, "
            f"more than {TOLERANCE:g}; it was not kept",
            exit_code=1,
        )
    return largest
