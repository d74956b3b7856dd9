"""What a soup is made of: beside its figures those of its parts, as far as they were tested on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlift.reporting.figures import ABSENT, FIGURES
from fastlift.reporting.record import RunRecord

_WAYS = {
    "uniform": "The mean of what these have trained.",
    "weighted": "The weighted mean of what these have trained.",
    "greedy": "The mean of those that were kept (weight above 0): from the best on the validation split on, each stayed if the "
    "average's {by} there did not fall.",
    "one after another": "From the pre-trained model on, one after another was averaged into it.",
}
_SHOWN = FIGURES[:4]


def soup_figures(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of a soup and of its parts that were tested on the same images, by name, the soup's first.

    Args:
        results: of a run, as ``results.json`` has them.
    """
    rows: dict[str, Mapping[str, Any]] = {"soup": results["metrics"]}
    for one in results.get("soup", {}).get("ingredients", []):
        if (figures := _figures(one, results)) is not None:
            rows[one.get("name", one["checkpoint"])] = figures
    return rows


def soup_table(run: RunRecord) -> dict[str, Any] | None:
    """A table for the page: headings, rows, which columns are numbers, and a note. None for a run that is no soup."""
    made = run.section("soup")
    if not made:
        return None
    parts = made["ingredients"]
    by = str(made.get("best_by", "")).replace("_", " ")
    settings = sorted({name for one in parts for name in one.get("settings", {})})
    validation = [f"Validation ({by})"] if by else []
    figures = [figure.short.capitalize() for figure in _SHOWN]
    headings = ["Part", "Checkpoint", "Weight", *settings, *validation, *figures]
    rows = [
        [
            str(one.get("name", one["run"][:8])),
            one["checkpoint"],
            f"{one['weight']:.4g}",
            *(_text(one.get("settings", {}).get(name)) for name in settings),
            *([_number(one.get("validation"))] if by else []),
            *(figure.text(_figures(one, run.results or {}) or {}) for figure in _SHOWN),
        ]
        for one in parts
    ]
    of_soup = [_number(made.get("validation"))] if by else []
    rows.append([run.name, "", "", *("" for _ in settings), *of_soup, *(one.text(run.metrics()) for one in _SHOWN)])
    first = 3 + len(settings)
    numbers = [2, *range(first, first + len(validation) + len(figures))]
    note = _WAYS.get(made["how"], "").format(by=by)
    note += f" Figures in %, of each part's own evaluation; {ABSENT} where that was on other images, or not of this checkpoint."
    return {"headings": headings, "rows": rows, "numbers": numbers, "note": note}


def _figures(one: Mapping[str, Any], results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    test = results.get("data", {}).get("fingerprints", {}).get("test")
    return one.get("figures") if test is not None and one.get("test") == test else None


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else ABSENT


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
