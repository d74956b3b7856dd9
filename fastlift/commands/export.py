"""``fastlift export RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastlift.commands.parsing import parse
from fastlift.config import Config
from fastlift.data.sampling.crops import EXPAND
from fastlift.interop.export import Crops, Format
from fastlift.interop.export.formats import HIGHEST_OPSET, LOWEST_OPSET, OPSET
from fastlift.settings import Between
from fastlift.system.settings import ThreadSettings

EXAMPLES = (
    "fastlift export RUN                                          # RUN/export/model.onnx, for onnxruntime",
    "fastlift export RUN --format onnx onnx-int8 pt2 --verify     # three files, compared and timed on this machine",
    "fastlift export RUN --format aoti --output served/           # compiled for CPUs like this one",
    "fastlift export RUN --calibrated                             # RUN/export/model-calibrated.onnx",
    "fastlift export RUN --tte fivecrop --output five.onnx        # five crops of each image in one call",
)


@dataclass(frozen=True)
class Export:
    """Files that serve a run without fastlift, each with a JSON beside it that says how to prepare images.

    Every file is read back and compared with the run before it is kept. It takes any number of images; in ONNX that dimension
    is called batch. onnx runs wherever onnxruntime does. onnx-fp16 is half as large, for GPUs and phones. onnx-int8 is a
    quarter as large, for CPUs; its accuracy is measured on test images and told. pt2 is PyTorch's own format
    (torch.export.load), for Python. aoti is that compiled for CPUs like this one, for Python and C++; it needs
    a C++ compiler here. torchscript (torch.jit.load) is deprecated by PyTorch and for programs that load nothing else.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    format: tuple[Format, ...] = ("onnx",)
    """One format or several."""
    output: Path | None = None
    """Folder for the files, or a file's name for one format (default: RUN/export)."""
    verify: bool = False
    """Measure all formats on this machine: differences, accuracy on test images, latency (medians; also in the JSON)."""
    images: Annotated[int, Between(0)] = 256
    """Test images on which accuracy is measured (onnx-int8, and all formats with --verify); 0 for none."""
    batch: Annotated[int, Between(2, 4096)] = 16
    """The larger batch that --verify times, beside single images."""
    data_root: str | None = None
    """Folder with the test images, or its URL, where it is not the one of the training any more."""
    opset: Annotated[int, Between(LOWEST_OPSET, HIGHEST_OPSET)] = OPSET
    """Version of ONNX's operators: a higher one only for programs that want it."""
    tte: Crops = "none"
    """fivecrop: the file takes five crops of each image and gives the mean of their logits."""
    expand: Annotated[int | None, EXPAND] = None
    """Pixels that five crops add to the short side (default: 24; less in proportion below size 224)."""
    calibrated: bool = False
    """The file's logits are calibrated by what fastlift calibrate fitted to the run, and the JSON has its threshold."""
    checkpoint: str | None = None
    """A checkpoint: best, last, a number of epochs (3) or a name (epoch-003). Default: best where there is one, else last."""
    weights: Literal["ema", "raw"] | None = None
    """Of a run with --ema: the average of its weights (ema, the default), or those that trained (raw)."""
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    overwrite: bool = False
    """Replace files that are there."""
    json: bool = False
    """Print a list of the files, with what was measured, as JSON."""


def run(arguments: list[str]) -> int:
    """Export by flags."""
    command = parse(Export, arguments, "export", examples=EXAMPLES)
    Config().override(tte=command.tte, expand=command.expand)  # refuses an expand that nothing is cropped from
    from fastlift.engine.export import Measuring, export_run
    from fastlift.reporting.console import Terminal, show_json, show_line, show_result
    from fastlift.reporting.exports import export_table

    with command.threads.use():
        done = export_run(
            command.run,
            command.format,
            checkpoint=command.checkpoint,
            weights=command.weights,
            output=command.output,
            ensembling=command.tte,
            expand=command.expand,
            opset=command.opset,
            overwrite=command.overwrite,
            calibrated=command.calibrated,
            measuring=Measuring(command.images, command.verify, command.batch, command.data_root),
            ui=Terminal(),
        )
    rows: list[dict[str, Any]] = [
        {
            "format": one.exported.format,
            "model": str(one.exported.model),
            "description": str(one.exported.description),
            "bytes": one.exported.model.stat().st_size,
            "difference": one.exported.difference,
            "measured": one.measured,
        }
        for one in done
    ]
    if command.json:
        show_json(rows)
        return 0
    for row in rows:
        show_line(f"{row['model']}: read back, its logits differ from the run's by {row['difference']:.1e} at most")
        show_line(f"{row['description']}: classes and preprocessing")
    if any(row["measured"] for row in rows):
        show_result(rows, export_table(rows), False)
    return 0
