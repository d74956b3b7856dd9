"""A calibration in the terminal: what was fitted, and both splits before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastlift.reporting.figures import FIGURES, SELECTIVE, Figure

SHOWN = ("accuracy", "many", "medium", "few", "mean_class_accuracy", "expected_calibration_error", "log_loss")
SPLITS = (("val", "validation"), ("test", "test"))


def fitted_text(values: Mapping[str, Any]) -> list[str]:
    """What was fitted, with its 95 % intervals, a sentence each."""
    about, spans = values["fitted_on"], values["intervals"]
    found = [
        f"strength of the prior {values['strength']:.3f}{_span(spans['strength'])}: logits + {values['strength']:.3f} log p",
        f"temperature {values['temperature']:.3f}{_span(spans['temperature'])}",
    ]
    if values["threshold"] is not None:
        found.append(f"threshold {values['threshold']:.4f}: below it, none of these{_goal(values)}")
    named = about["checkpoint"] or "the model as it is"
    by = values["settings"]["by"].replace("_", " ")
    weighed = "classes weighed alike" if values["settings"]["weigh"] == "classes" else "images weighed alike"
    found.append(
        f"fitted to {named} on {about['images']:,} validation images, by {by} ({weighed}), with --tte {about['tte']}"
    )
    return found


def _span(span: Sequence[float] | None) -> str:
    return "" if span is None else " ({:.3f} to {:.3f})".format(*span)


def _goal(values: Mapping[str, Any]) -> str:
    """The goal of the threshold, and how sure it is to be met on other images."""
    asked, after = values["settings"], values["after"]["val"]
    if asked["reject"] is not None:
        low, high = after["right_rejected_interval"]
        return (
            f"; of right answers it turns away {after['right_rejected']:.1f} % (of other images {low:.1f} to {high:.1f} %), "
            f"{100 * asked['reject']:g} % were allowed"
        )
    low, high = after["selective_accuracy_interval"]
    return (
        f"; of accepted answers {after['selective_accuracy']:.1f} % are right (of other images {low:.1f} to {high:.1f} %), "
        f"{100 * asked['selective_accuracy']:g} % were wanted"
    )


def calibration_table(values: Mapping[str, Any]) -> Group:
    """What was fitted, and the figures of both splits before and after."""
    table = Table(box=SIMPLE_HEAD, title_justify="left")
    table.add_column("figure")
    for _, name in SPLITS:
        table.add_column(f"{name}\nbefore", justify="right", no_wrap=True)
        table.add_column("\nafter", justify="right", no_wrap=True)
    table.add_column("unit", style="dim")
    for figure in shown_figures(values):
        cells = []
        for split, _ in SPLITS:
            cells += [figure.text(values["before"][split]), figure.text(values["after"][split])]
        table.add_row(figure.title(values["before"]["val"]), *cells, figure.unit)
    return Group(*(Text(line) for line in fitted_text(values)), table)


def shown_figures(values: Mapping[str, Any]) -> list[Figure]:
    """The figures of the table; those of a threshold where there is one."""
    plain = [figure for figure in FIGURES if figure.name in SHOWN]
    return [*plain, *SELECTIVE] if values["threshold"] is not None else plain
