"""What a calibration changes, on the page: head against tail over the strength of the prior, and confidences before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from fastlift.reporting.calibrations import SPLITS, fitted_text, shown_figures
from fastlift.reporting.plots import Plot, colour
from fastlift.reporting.record import RunRecord
from fastlift.reporting.svg import INK, MUTED, drawing, inline_svg

_LINES = {"accuracy": ("overall", "-"), "many": ("many", "--"), "medium": ("medium", "-."), "few": ("few", ":")}
_BANDS = ("many", "few")  # bands of all four would hide each other
_CAPTION = (
    "Accuracy with the logits + strength * log prior: to the left rare classes win, to the right frequent ones. Dashed "
    "upright line: the run as it is. Solid: the fitted strength. Bands: 95 % intervals of many and few."
)


def calibration_section(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """What the page shows of each run that was calibrated: sentences, a table of figures before and after, plots."""
    return [_of_one(run, place) for place, run in enumerate(runs) if run.calibration is not None]


def _of_one(run: RunRecord, place: int) -> dict[str, Any]:
    values = run.calibration
    assert values is not None
    curves = [_tradeoff(run.name, values, split, name, f"tradeoff-{place}-{split}") for split, name in SPLITS]
    return {
        "name": run.name,
        "colour": colour(place),
        "facts": [f"{fact[0].upper()}{fact[1:]}." for fact in fitted_text(values)],
        "headings": ["Figure", *(f"{name}, {when}" for _, name in SPLITS for when in ("before", "after")), "Unit"],
        "rows": _rows(values),
        "plots": [*curves, *_reliability(run.name, values, f"reliability-{place}")],
    }


def _rows(values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            figure.title(values["before"]["val"]),
            *(figure.text(values[when][split]) for split, _ in SPLITS for when in ("before", "after")),
            figure.unit,
        ]
        for figure in shown_figures(values)
    ]


def _tradeoff(run: str, values: Mapping[str, Any], split: str, name: str, key: str) -> Plot:
    strengths, found, fitted = values["curve"]["strengths"], values["curve"][split], values["strength"]
    with drawing() as (figure, axes):
        axes.axvline(0, color=INK, linewidth=1, linestyle="--")
        axes.axvline(fitted, color=INK, linewidth=1)
        for row, (field, (label, style)) in enumerate(_LINES.items()):
            if field in found:
                points = found[field]
                if field in _BANDS:
                    axes.fill_between(strengths, points["low"], points["high"], color=colour(row), alpha=0.15, lw=0)
                axes.plot(strengths, points["value"], style, color=colour(row), label=label)
        axes.set(xlim=(strengths[0], strengths[-1]), ylim=(0, 100), ylabel="accuracy (%)")
        axes.set_xlabel("strength of the prior")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=4, columnspacing=1.2)
        title = f"Head against tail, {name} split"
        told = "; ".join(
            f"{label} {_at(values, split, field)}" for field, (label, _) in _LINES.items() if field in found
        )
        svg = inline_svg(figure, key, f"{title}, over the strength of the prior, for {run}: {told}")
    return Plot(title, f"{_CAPTION} As it is, then fitted ({fitted:.2f}): {told}.", svg)


def frontier_plot(runs: Sequence[RunRecord]) -> Plot | None:
    """Few against many over the strength, a line a run, where several runs were calibrated; None else."""
    told = [(place, run, run.calibration) for place, run in enumerate(runs) if run.calibration is not None]
    told = [one for one in told if all(name in one[2]["curve"]["test"] for name in _BANDS)]
    if len(told) < 2:
        return None
    with drawing() as (figure, axes):
        for place, run, values in told:
            many, few = (values["curve"]["test"][name]["value"] for name in _BANDS)
            axes.plot(many, few, color=colour(place), label=run.name)
            for when, marker in (("before", "o"), ("after", "D")):
                point = [values[when]["test"][name] for name in _BANDS]
                axes.plot(*([value] for value in point), marker=marker, markersize=6, color=colour(place))
        axes.set(xlabel="many-shot accuracy (%)", ylabel="few-shot accuracy (%)")
        described = "; ".join(
            f"{run.name}: many {_at(values, 'test', 'many')}, few {_at(values, 'test', 'few')}"
            for _, run, values in told
        )
        svg = inline_svg(figure, "frontier", f"Few-shot against many-shot test accuracy over the strength: {described}")
    caption = (
        "Test split, one line a run, in the colours of the runs: all strengths of the prior from -1 to 1.5. Dot: the run as it "
        "is. Diamond: its fitted strength. Of runs with the same test images, a line above and to the right of another is better at every trade-off."
    )
    return Plot("Head against tail, runs compared", caption, svg)


def _at(values: Mapping[str, Any], split: str, field: str) -> str:
    """A figure before and after."""
    pair = [values[when][split].get(field) for when in ("before", "after")]
    return " then ".join("none" if value is None else f"{value:.1f}" for value in pair)


def _reliability(run: str, values: Mapping[str, Any], key: str) -> list[Plot]:
    """Accuracy against confidence on the test split, before and after."""
    with drawing() as (figure, axes):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle="--")
        for row, when in enumerate(("before", "after")):
            _bins(axes, values[when]["test"]["calibration"], colour(row), when)
        axes.set(xlim=(0, 104), ylim=(0, 104), xlabel="confidence (%)", ylabel="accuracy (%)")
        axes.legend(loc="upper left")
        errors = [values[when]["test"]["expected_calibration_error"] for when in ("before", "after")]
        told = " then ".join("none" if error is None else f"{error:.1f} %" for error in errors)
        svg = inline_svg(
            figure, key, f"Accuracy against confidence before and after, for {run}: calibration error {told}"
        )
    caption = (
        "One dot per bin of the test images; its size is the bin's share. Below the dashed line the model is overconfident. "
        f"Expected calibration error: {told}."
    )
    return [Plot("Confidence before and after, test split", caption, svg)]


def _bins(axes: Axes, bins: Sequence[Mapping[str, Any]], tint: str, label: str) -> None:
    filled = [one for one in bins if one["count"]]
    total = sum(one["count"] for one in filled)
    x, y = ([one[name] for one in filled] for name in ("confidence", "accuracy"))
    axes.plot(x, y, color=tint, linewidth=1.2, label=label)
    axes.scatter(x, y, s=[12 + 240 * one["count"] / total for one in filled], color=tint, alpha=0.7, linewidths=0)


def calibration_notes(run: RunRecord) -> list[str]:
    """Where a calibration is of another checkpoint than the page's figures."""
    if run.calibration is None:
        return []
    fitted, chosen = run.calibration["fitted_on"]["checkpoint"], run.section("checkpoint").get("name")
    epochs = (run.results or {}).get("epochs")
    tested = chosen or (f"epoch-{epochs:03d}" if epochs else None)
    if tested is None or fitted in (None, tested):
        return []
    return [
        f"Its calibration was fitted to {fitted}, and the figures here are those of {tested}: fastlift calibrate fits it anew."
    ]
