"""What stands in an exported file and beside it: input, output, classes, and every step of the preprocessing."""

from __future__ import annotations

from typing import Any

from fastlift import __version__
from fastlift.data.sampling.crops import EvalCrops
from fastlift.interop.export.formats import KINDS
from fastlift.models.calibrated import Calibration
from fastlift.models.lift import LiftModel


def describe(model: LiftModel, crops: EvalCrops, file: str, format: str, opset: int) -> dict[str, Any]:
    """All that a server needs to know beside the file."""
    size, count = crops.size, crops.per_image
    corners = [["0", "0"], ["width - size", "0"], ["0", "height - size"], ["width - size", "height - size"]]
    centre = ["round((width - size) / 2)", "round((height - size) / 2)"]
    shape = ["batch", 3, size, size] if count == 1 else ["batch", count, 3, size, size]
    return {
        "format": 1,
        "fastlift": __version__,
        "file": file,
        "kind": format,
        **({"opset": opset} if format.startswith("onnx") else {}),
        "load": KINDS[format].load,
        "input": {"name": "images", "shape": shape, "dtype": "float32"},
        "output": {"name": "logits", "shape": ["batch", len(model.class_names)], "dtype": "float32"},
        "classes": list(model.class_names),
        **({} if model.calibration is None else {"calibration": _calibration(model.calibration)}),
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


def _calibration(fitted: Calibration) -> dict[str, Any]:
    return {
        "logits": "(plain logits + strength * ln(class_counts / sum of class_counts)) / temperature; the file computes these",
        "strength": fitted.strength,
        "temperature": fitted.temperature,
        "class_counts": list(fitted.class_counts),
        "threshold": fitted.threshold,
        "threshold_is": "the answer is none of these where the largest probability of softmax(logits) is below it; null: none",
    }
