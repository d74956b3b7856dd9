"""One self-contained HTML page about one run or several: plots, thumbnails, style and script inline, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fastlift import __version__
from fastlift.reporting import plots
from fastlift.reporting.advice_page import advice_on_page
from fastlift.reporting.calibration_plots import calibration_notes, calibration_section, frontier_plot
from fastlift.reporting.class_plots import per_class_plots
from fastlift.reporting.classes import class_table
from fastlift.reporting.comparison import (
    final_tables,
    flat,
    interval_of,
    other_tables,
    setting_differences,
    time_tables,
)
from fastlift.reporting.confusion import matrix
from fastlift.reporting.figures import ABSENT, FIGURES, duration_text, is_long_wait, slow_one
from fastlift.reporting.gallery import PAGE_BYTES, gallery
from fastlift.reporting.paired import paired_lines, paired_of, paired_tables
from fastlift.reporting.record import RunRecord, read_runs
from fastlift.reporting.seeds import seeds_tables
from fastlift.reporting.soups import soup_table
from fastlift.reporting.validation_plots import validation_plots
from fastlift.runs.stored import Record
from fastlift.system.files import write_text
from fastlift.system.printing import printable

Rows = list[list[str]]


def write_report(
    runs: Sequence[Path], output: Path, *, images: bool = True, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Read the run folders and write one page that compares them; for one run, the page of that run.

    The page is one file: styles, plots and thumbnails are inside. Its content policy forbids loading anything, and runs one
    script alone, which sorts and searches tables; without it everything is there to read.

    Args:
        runs: run folders, finished or not (see `fastlift.reporting.record.read_run`).
        output: the HTML file; its folder is made where missing.
        images: show the thumbnails that the runs keep of test images: who gets the page gets them.
        say: told how runs on the same test images differ from the first, a sentence each.

    Returns:
        output.

    Raises:
        UserError: a run folder cannot be read.
    """
    found = read_runs(runs)
    write_text(output, render_report(found, images=images))
    for line in paired_lines(paired_of(found), found[0].name):
        say(line)
    return output


def render_report(runs: Sequence[RunRecord], *, images: bool = True) -> str:
    """The page as text; thumbnails on it have ``gallery.PAGE_BYTES`` at most."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_printable
    )
    template = environment.from_string(_part("report.html"))
    overview = plots.group_bars(runs), plots.calibration_plot(runs), plots.class_counts_of(runs), frontier_plot(runs)
    shown = [_shown(run, index, PAGE_BYTES // len(runs) if images else 0) for index, run in enumerate(runs)]
    script = _part("report.js")
    return template.render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        version=__version__,
        style=Markup(_part("report.css")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        several=len(runs) > 1,
        runs=shown,
        thumbnails=sum(one[part].count for one in shown for part in ("gallery", "advice") if one[part]),
        tables=[
            *final_tables(runs),
            *paired_tables(runs),
            *seeds_tables(runs),
            *time_tables(runs),
            *other_tables(runs),
        ],
        differences=setting_differences(runs),
        result_plots=[plot for plot in overview if plot is not None],
        per_class=per_class_plots(runs),
        curves=[*validation_plots(runs), *plots.learning_curves(runs), *plots.waiting_plots(runs)],
        calibrations=calibration_section(runs),
        classes=class_table(runs),
    )


def _part(name: str) -> str:
    return files("fastlift.reporting").joinpath(name).read_text(encoding="utf-8")


def _printable(value: Any) -> Any:
    """What the page shows of a value; drawings, style and script keep their line ends."""
    if isinstance(value, Markup):
        return Markup(printable(value, lines=True))
    return printable(value) if isinstance(value, str) else value


def _shown(run: RunRecord, index: int, image_bytes: int) -> dict[str, Any]:
    """What the page's sections show of one run."""
    images = gallery(run, image_bytes) if image_bytes else None
    left = 0 if images is None else image_bytes - images.used
    return {
        "name": run.name,
        "colour": plots.colour(index),
        "soup": soup_table(run),
        "matrix": matrix(run, f"matrix-{index}"),
        "gallery": images,
        "advice": None if run.advice is None else advice_on_page(run.advice, f"advice-{index}", left),
        "kept": 0 if run.predictions is None else len(run.predictions.thumbnails),
        **_card(run),
        **_details(run),
    }


def _card(run: RunRecord) -> dict[str, Any]:
    """The heading figures of a run, and what a reader must know before trusting them."""
    metrics, interval = run.metrics(), interval_of(run, FIGURES[0])
    facts = [text for text in (_data_fact(run.data), _model_fact(run.section("model")), _timing_fact(run)) if text]
    return {
        "finished": run.finished,
        "notes": [*run.notes, *_metric_notes(run), *calibration_notes(run), *_wait_notes(run)],
        "accuracy": FIGURES[0].text(metrics),
        "interval": "" if interval is None else "{:.1f} to {:.1f}".format(*interval),
        "groups": [(figure.short, figure.text(metrics), figure.range_text(metrics)) for figure in FIGURES[1:4]],
        "facts": facts,
    }


def _metric_notes(run: RunRecord) -> list[str]:
    metrics = run.metrics()
    notes = []
    if not run.finished and metrics:
        split = " of the validation split" if metrics.get("split") == "val" else ""
        notes.append(f"The figures are those of the last evaluation{split} on the way, at step {metrics['step']}.")
    if not metrics:
        notes.append("It has not been evaluated yet.")
    if metrics.get("non_finite"):
        notes.append(f"For {metrics['non_finite']} test images the model gave NaN or infinity; they count as wrong.")
    if run.predictions is not None and run.predictions.images.every > 1:
        every, of = run.predictions.images.every, run.predictions.of
        notes.append(
            f"Of {of:,} test images, one in {every} is kept: images, confusions and classes' test images are of these."
        )
    return notes


def _wait_notes(run: RunRecord) -> list[str]:
    """Where a faster way to load images would have made the training shorter."""
    timing = run.section("timing")
    if "data_wait_share" not in timing or "train_s" not in timing:
        return []
    share, train_s = timing["data_wait_share"], timing["train_s"]
    whose = slow_one([each["data_wait_share"] for each in run.processes], [each["host"] for each in run.processes])
    told = (
        f"Training waited for images in {100 * share:.0f} % of its time{whose}: see Waiting for data in docs/data.md."
    )
    return [told] if is_long_wait(share * train_s, train_s) else []


def _data_fact(data: Mapping[str, Any]) -> str:
    counts = data.get("class_counts") or []
    if not counts:
        return str(data.get("name", ""))
    return (
        f"{data.get('name', 'data')}: {sum(counts):,} training images in {len(counts):,} classes, "
        f"{max(counts):,} to {min(counts):,} a class"
    )


def _model_fact(model: Mapping[str, Any]) -> str:
    words = {"tuned": "parameters learn", "tuner": "in the tuner", "head": "in the classifier"}
    counts = {what: model.get(f"{what}_parameters") for what in words}
    parts = [f"{count:,} {words[what]}" for what, count in counts.items() if count is not None]
    if model.get("rank") is not None:
        parts.append(f"rank {model['rank']}")
    return ", ".join(parts)


def _timing_fact(run: RunRecord) -> str:
    timing, words = run.section("timing"), {"train_s": "training", "evaluate_s": "evaluation"}
    parts = [f"{word} {duration_text(timing[name])}" for name, word in words.items() if name in timing]
    if "images_per_s" in timing:
        parts.append(f"{timing['images_per_s']:.0f} training images/s")
    if "data_wait_share" in timing:
        parts.append(f"{100 * timing['data_wait_share']:.0f} % of the training waited for data")
    if not run.finished and run.steps:
        last = run.steps[-1]
        epoch = f", in epoch {last['epoch'] + 1}" if isinstance(last.get("epoch"), int) else ""
        parts.append(f"last logged step {last['step']}{epoch}")
    return ", ".join(parts)


def _details(run: RunRecord) -> dict[str, Any]:
    of_results = {name.title(): run.section(name) for name in ("model", "timing", "machine", "versions")}
    sections = {"Settings": run.config, **of_results}
    return {
        "sections": [(title, sorted(flat(value).items())) for title, value in sections.items() if value],
        "epochs": _epoch_rows(run.epochs),
    }


def _epoch_rows(epochs: Sequence[Record]) -> Rows:
    rows = []
    for epoch in epochs:
        loss, accuracy, seconds = (epoch.get(key) for key in ("train_loss", "train_accuracy", "seconds"))
        rows.append(
            [
                str(epoch["epoch"] + 1) if isinstance(epoch.get("epoch"), int) else ABSENT,
                f"{loss:.4f}" if isinstance(loss, int | float) else ABSENT,
                f"{accuracy:.1f}" if isinstance(accuracy, int | float) else ABSENT,
                duration_text(seconds) if isinstance(seconds, int | float) else ABSENT,
            ]
        )
    return rows
