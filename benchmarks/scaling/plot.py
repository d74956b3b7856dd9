"""The plot of docs/scaling.md: what more GPUs bring with one global batch, and with as many images on each."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.documents import ROOT
from benchmarks.scaling.model import CAPTURED, FULL, LARGE, LIFT, NETWORKS, SLOW, step, strong
from fastlift.reporting.svg import SERIES

PLOT = ROOT / "docs" / "images" / "scaling.svg"
COUNTS = [2**n for n in range(11)]


def draw(file: Path) -> None:
    """Write ``file`` (SVG), of the same bytes each time."""
    with matplotlib.rc_context({"font.size": 9.0, "svg.hashsalt": "scaling", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        one_batch, more_images = figure.subplots(1, 2)
        _strong(one_batch)
        _weak(more_images)
        for axes in (one_batch, more_images):
            axes.set_xscale("log", base=2)
            axes.set_xticks(COUNTS[::2], [f"{n:,}" for n in COUNTS[::2]])
            axes.set_xlabel("GPUs (8 a node)")
            axes.legend(frameon=False, fontsize=7.5)
            axes.spines[["top", "right"]].set_visible(False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _strong(axes: Axes) -> None:
    """Images/s with one global batch."""
    axes.plot(
        COUNTS, [n * strong(LIFT, 4096, 1, SLOW) for n in COUNTS], color="#999999", linestyle=":", label="N times one"
    )
    for colour, batch in zip(SERIES, (128, 512, 4096), strict=False):
        for training, line in ((LIFT, "-"), (CAPTURED, "--")):
            speeds = [strong(training, batch, n, SLOW) for n in COUNTS]
            how = "CUDA graph" if training.captured else "eager"
            axes.plot(COUNTS, speeds, color=colour, linestyle=line, label=f"batch {batch}, {how}")
    axes.set_yscale("log")
    axes.set_ylabel("images/s")
    axes.set_title(f"One global batch, LIFT on a ViT-B/16, {SLOW.name} (computed)", fontsize=8.5)


def _weak(axes: Axes) -> None:
    """Efficiency with 128 images a GPU."""
    for colour, training in zip(SERIES, (LIFT, LARGE, FULL), strict=False):
        for network, line in zip((NETWORKS[0], NETWORKS[2]), ("-", "--"), strict=True):
            one = step(training, 128, 1, network).seconds
            shares = [100 * one / step(training, 128, n, network).seconds for n in COUNTS]
            axes.plot(COUNTS, shares, color=colour, linestyle=line, label=f"{training.name}, {network.name}")
    axes.set_ylim(0, 105)
    axes.set_ylabel("share of N times one GPU (%)")
    axes.set_title("128 images a GPU (computed)", fontsize=8.5)
