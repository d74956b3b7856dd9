"""``fastlift report RUN [RUN ...]``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastlift.commands.parsing import parse
from fastlift.errors import UserError

EXAMPLES = (
    "fastlift report RUN",
    "fastlift report runs/* --output comparison.html",
    "fastlift report runs/three-seeds runs/three-of-another",
    "fastlift report RUN --no-images --output to_send.html",
)


PATIENCE_S = 5.0  # for an ``evaluate`` that adds its row; trainings take longer


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page with plots and tables; several runs are shown side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, and folders of several seeds."""
    output: Path | None = None
    """The page (default: report.html in the run's folder, or here for several runs; beside a run that is still going, name
    another place)."""
    images: bool = True
    """Without the small copies of images that the runs keep (test images, and training images after advise): for a page that
    others get."""


def run(arguments: list[str]) -> int:
    """Write the page, and say where."""
    command = parse(Report, arguments, "report", examples=EXAMPLES)
    if not command.runs:
        raise UserError("name at least one run folder: fastlift report RUN [RUN ...]")
    if command.output is not None and command.output.is_dir():
        raise UserError(f"--output {command.output} is a folder: name a file in it for the page")
    from fastlift.reporting.console import Terminal, complain, show_line
    from fastlift.reporting.html import write_report
    from fastlift.runs.claims import InUse, claimed
    from fastlift.runs.folder import open_run
    from fastlift.runs.seeds import runs_in

    folders = runs_in(list(command.runs))  # those of several seeds in a folder, too
    default = command.runs[0] / "report.html" if len(command.runs) == 1 else Path("report.html")
    output = command.output or default
    for folder in folders:
        open_run(folder)
    inside = next((run for run in command.runs if run.resolve() == output.parent.resolve()), None)
    try:  # beside a process that writes there, the page of what was before might come last
        with nullcontext() if inside is None else claimed(inside, complain, PATIENCE_S):
            show_line(str(write_report(folders, output, images=command.images, say=Terminal().say)))
    except InUse as error:
        raise UserError(f"{error}; or name another place for the page with --output") from None
    return 0
