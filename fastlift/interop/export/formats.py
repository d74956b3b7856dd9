"""The formats of exported models: how each is called, written, read back, and how far its logits may be off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, get_args

from torch import Tensor

from fastlift.errors import UserError
from fastlift.interop.export import onnx_files, torch_files
from fastlift.interop.export.source import Source

Format = Literal["onnx", "onnx-fp16", "onnx-int8", "pt2", "aoti", "torchscript"]
FORMATS: tuple[Format, ...] = get_args(Format)
OPSET, LOWEST_OPSET, HIGHEST_OPSET = 18, 18, 25

Served = Callable[[Tensor], Tensor]


class Writes(Protocol):
    """Writes a file of a format from what is exported, with the description inside."""

    def __call__(self, source: Source, path: Path, description: str) -> None: ...


@dataclass(frozen=True)
class Kind:
    """A format.

    Attributes:
        ending: of the file's name, behind the stem.
        write: makes the file.
        open: (file, threads) -> what computes logits [B, C] of images, as another program would.
        needs: packages that it cannot do without.
        load: how other programs load it, for the description.
        share: how much of the range of the logits they may be off by; 0: by 1e-4 at most; None: whatever rounding to so few
            bits comes to, as the accuracy tells.
    """

    ending: str
    write: Writes
    open: Callable[[Path, int], Served]
    needs: tuple[str, ...]
    load: str
    share: float | None = 0.0


_ONNX = ("onnx", "onnxscript", "onnxruntime")
_SESSION = "onnxruntime.InferenceSession(FILE).run(['logits'], {'images': images})"
KINDS: dict[str, Kind] = {
    "onnx": Kind(".onnx", onnx_files.write, onnx_files.read, _ONNX, _SESSION),
    "onnx-fp16": Kind("-fp16.onnx", onnx_files.write_fp16, onnx_files.read, _ONNX, _SESSION, 0.05),
    "onnx-int8": Kind("-int8.onnx", onnx_files.write_int8, onnx_files.read, _ONNX, _SESSION, None),
    "pt2": Kind(".pt2", torch_files.write_pt2, torch_files.read_pt2, (), "torch.export.load(FILE).module()(images)"),
    "aoti": Kind(
        "-aoti.pt2",
        torch_files.write_aoti,
        torch_files.read_aoti,
        (),
        # The compiled code takes the memory as contiguous, and does not look.
        "torch._inductor.aoti_load_package(FILE)(images.contiguous()); in C++ torch::inductor::AOTIModelPackageLoader",
    ),
    "torchscript": Kind(
        ".torchscript",
        torch_files.write_torchscript,
        torch_files.read_torchscript,
        (),
        "torch.jit.load(FILE)(images); in C++ torch::jit::load",
    ),
}


def check_packages(format: str) -> None:
    """Raise UserError where packages that ``format`` needs are missing."""
    if missing := [name for name in KINDS[format].needs if find_spec(name) is None]:
        raise UserError(f"export to {format} needs {', '.join(missing)}: pip install 'fastlift[onnx]'")


def format_of(path: Path) -> str | None:
    """The format that a file's name tells, if it tells one: ``model-int8.onnx`` is ``onnx-int8``."""
    fitting = [name for name, kind in KINDS.items() if path.name.endswith(kind.ending)]
    return max(fitting, key=lambda name: len(KINDS[name].ending), default=None)
