"""``fastlift export RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastlift.commands.parsing import parse
from fastlift.config import Config
from fastlift.data.sampling.crops import EXPAND
from fastlift.interop.export import Crops, Format, export_model
from fastlift.system.settings import ThreadSettings

EXAMPLES = ("fastlift export RUN --format onnx", "fastlift export RUN --format pt2 --tte fivecrop --output model.pt2")


@dataclass(frozen=True)
class Export:
    """One file that serves a run without fastlift, and a JSON beside it that says how to prepare images."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    format: Format = "onnx"
    """ONNX (pip install 'fastlift[onnx]'), or PyTorch's own: torch.export.load(FILE).module()."""
    output: Path | None = None
    """The file; default RUN/export/onnx/model.onnx or RUN/export/pt2/model.pt2 (five crops: model-fivecrop)."""
    tte: Crops = "none"
    """fivecrop: the file takes five crops of each image and gives the mean of their logits."""
    expand: Annotated[int | None, EXPAND] = None
    """Pixels that five crops add to the short side (default: 24; less in proportion below size 224)."""
    checkpoint: str | None = None
    """A checkpoint by name, such as epoch-003 (default: the last one)."""
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    overwrite: bool = False
    """Replace files that are there."""
    json: bool = False
    """Print where the files are as JSON."""


def run(arguments: list[str]) -> int:
    """Export by flags."""
    command = parse(Export, arguments, "export", examples=EXAMPLES)
    Config().override(tte=command.tte, expand=command.expand)  # refuses an expand that nothing is cropped from
    from fastlift.engine.model import load_run
    from fastlift.reporting.console import Terminal, show_json, show_line

    model = load_run(command.run, command.checkpoint, Terminal())
    stem = "model" if command.tte == "none" else f"model-{command.tte}"
    path = command.output or command.run / "export" / command.format / f"{stem}.{command.format}"
    with command.threads.use():
        done = export_model(
            model,
            path,
            format=command.format,
            ensembling=command.tte,
            expand=command.expand,
            overwrite=command.overwrite,
        )
    if command.json:
        files = {"model": str(done.model), "description": str(done.description), "difference": done.difference}
        show_json(files)
    else:
        show_line(f"{done.model}: read back, its logits differ from the run's by {done.difference:.1e} at most")
        show_line(f"{done.description}: classes and preprocessing")
    return 0
