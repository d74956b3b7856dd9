"""One self-contained HTML page about one run or several: plots inline, nothing loaded from anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fastlift import __version__
from fastlift.reporting import plots
from fastlift.reporting.figures import ABSENT, FIGURES, best, duration_text, is_long_wait, slow_one
from fastlift.reporting.record import RunRecord, read_runs
from fastlift.runs.stored import Record
from fastlift.system.files import write_text
from fastlift.system.printing import masked, printable

WORST_CLASSES = 12
CONFUSED_PAIRS = 12
LISTED_CLASSES = 1000

Rows = list[list[str]]


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Read the run folders and write one page that compares them; for one run, the page of that run.

    The page is one file: styles and plots are inside, its content policy forbids loading anything, and no script runs.

    Args:
        runs: run folders, finished or not (see `fastlift.reporting.record.read_run`).
        output: the HTML file; its folder is made where missing.

    Returns:
        output.

    Raises:
        UserError: a run folder cannot be read.
    """
    write_text(output, render_report(read_runs(runs)))
    return output


def render_report(runs: Sequence[RunRecord]) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_printable
    )
    template = environment.from_string(files("fastlift.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    overview = plots.group_bars(runs), plots.calibration_plot(runs), _class_counts_plot(runs)
    return template.render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        version=__version__,
        several=len(runs) > 1,
        runs=[_shown(run) | {"colour": plots.colour(index)} for index, run in enumerate(runs)],
        figures=_figures_tables(runs),
        differences=_differences(runs),
        result_plots=[plot for plot in overview if plot is not None],
        per_class=plots.per_class_plot(runs),
        curves=[*plots.learning_curves(runs), *plots.waiting_plots(runs)],
    )


def _printable(value: Any) -> Any:
    """What the page shows of a value; drawings keep their line ends."""
    if isinstance(value, Markup):
        return Markup(printable(value, lines=True))
    return printable(value) if isinstance(value, str) else value


def _shown(run: RunRecord) -> dict[str, Any]:
    """What the page's sections show of one run."""
    return {"name": run.name, **_card(run), **_class_lists(run), **_details(run)}


def _card(run: RunRecord) -> dict[str, Any]:
    """The heading figures of a run, and what a reader must know before trusting them."""
    metrics = run.metrics()
    data = run.data
    facts = [text for text in (_data_fact(data), _model_fact(run.section("model")), _timing_fact(run)) if text]
    return {
        "finished": run.finished,
        "notes": [*run.notes, *_metric_notes(run), *_wait_notes(run)],
        "accuracy": FIGURES[0].text(metrics),
        "interval": _interval(metrics),
        "groups": [(figure.short, figure.text(metrics)) for figure in FIGURES[1:4]],
        "facts": facts,
    }


def _metric_notes(run: RunRecord) -> list[str]:
    metrics = run.metrics()
    notes = []
    if not run.finished and metrics:
        notes.append(f"The figures are those of the last evaluation on the way, at step {metrics['step']}.")
    if not metrics:
        notes.append("It has not been evaluated yet.")
    if metrics.get("non_finite"):
        notes.append(f"For {metrics['non_finite']} test images the model gave NaN or infinity; they count as wrong.")
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


def _interval(metrics: Mapping[str, Any]) -> str:
    """Half the 95 % interval of the accuracy that the size of the test set alone leaves open, in points."""
    accuracy, samples = FIGURES[0].value(metrics), metrics.get("samples")
    if accuracy is None or not samples:
        return ""
    share = accuracy / 100
    return f"{196 * math.sqrt(share * (1 - share) / samples):.1f}"


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


def _figures_tables(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """All figures: the final ones of the runs beside each other, then those of other ways of testing."""
    final = {run.name: run.metrics() for run in runs if run.metrics()}
    if len(runs) == 1 and runs[0].metrics() in (ways := runs[0].named_evaluations()).values():
        return [{"title": "Ways of testing", **_table(ways)}]
    tables = [{"title": "", **_table(final)}] if final else []
    for way in dict.fromkeys(way for run in runs for way in run.named_evaluations()):
        rows = {run.name: run.named_evaluations()[way] for run in runs if way in run.named_evaluations()}
        if any(metrics != final.get(name) for name, metrics in rows.items()):
            tables.append({"title": f"Tested by {way}", **_table(rows)})
    return tables


def _table(columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All figures as rows of (label, unit, cells); a cell is (text, whether it is the best of its row)."""
    rows = []
    for figure in FIGURES:
        leaders = best(figure, columns)
        cells = [(figure.text(metrics), name in leaders) for name, metrics in columns.items()]
        if any(text != ABSENT for text, _ in cells):
            titles = {figure.title(metrics) for metrics in columns.values()}
            rows.append((titles.pop() if len(titles) == 1 else figure.plain_title, figure.unit, cells))
    return {"columns": list(columns), "rows": rows}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and JSON text."""
    result: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = masked(value) if isinstance(value, str) else json.dumps(value)
    return result


def _differences(runs: Sequence[RunRecord]) -> Rows:
    """Settings that are not the same in all runs, as rows of name and value by run."""
    settings = [flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = [[name, *(one.get(name, ABSENT) for one in settings)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _class_counts_plot(runs: Sequence[RunRecord]) -> plots.Plot | None:
    """The training set's long tail, where the runs that tell it learned from the same one."""
    telling = [run for run in runs if run.data.get("class_counts")]
    counts = [run.data["class_counts"] for run in telling]
    if not telling or any(other != counts[0] for other in counts):
        return None
    return plots.class_counts_plot(telling[0])


def _class_lists(run: RunRecord) -> dict[str, Any]:
    """Worst classes, most confused pairs, and all classes (up to a limit) from the worst up."""
    metrics, names = run.metrics(), run.class_names()
    counts = run.data.get("class_counts") or []
    tested = [(value, place) for place, value in enumerate(metrics.get("per_class") or []) if value is not None]
    rows = [
        [names[place], f"{counts[place]:,}" if place < len(counts) else ABSENT, f"{value:.1f}"]
        for value, place in sorted(tested)
    ]
    confused = [
        [_name(names, entry["label"]), _name(names, entry["predicted"]), str(entry["count"])]
        for entry in (metrics.get("confusions") or [])[:CONFUSED_PAIRS]
    ]
    return {
        "worst": rows[:WORST_CLASSES],
        "all": rows[:LISTED_CLASSES],
        "total": len(rows),
        "confused": confused,
    }


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if 0 <= place < len(names) else f"class {place}"


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
