"""``fastlift report RUN [RUN ...]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastlift.commands.parsing import parse
from fastlift.errors import UserError

EXAMPLES = ("fastlift report RUN", "fastlift report runs/* --output comparison.html")


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page with plots and tables; several runs are shown side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path | None = None
    """The page (default: report.html in the run's folder, or here for several runs)."""


def run(arguments: list[str]) -> int:
    """Write the page, and say where."""
    command = parse(Report, arguments, "report", examples=EXAMPLES)
    if not command.runs:
        raise UserError("name at least one run folder: fastlift report RUN [RUN ...]")
    if command.output is not None and command.output.is_dir():
        raise UserError(f"--output {command.output} is a folder: name a file in it for the page")
    from fastlift.reporting.console import show_line
    from fastlift.reporting.html import write_report

    default = command.runs[0] / "report.html" if len(command.runs) == 1 else Path("report.html")
    show_line(str(write_report(list(command.runs), command.output or default)))
    return 0
