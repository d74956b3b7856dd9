"""What the JSON files of a run hold, checked where they are read: damage is told, with the way on, and never shown as a figure.

The types below are the files' own; msgspec compares. Others may stand beside the names that are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec
from msgspec import Meta

from fastlift.errors import UserError
from fastlift.settings import MOST
from fastlift.system.files import read_json

Record = dict[str, Any]
Count = Annotated[int, Meta(ge=0, le=MOST, description="a whole number, 0 or more")]
Number = Annotated[float, Meta(ge=-1e15, le=1e15, description="a number")]
# A training that diverges may come near the largest number of fp32, and that is what it did.
OfFp32 = Annotated[float, Meta(ge=-1e39, le=1e39, description="a number")]
Text = Annotated[str, Meta(description="text")]
Boundaries = Annotated[tuple[Count, Count], Meta(description="two numbers that do not fall")]


class _Bin(TypedDict):
    count: Count
    confidence: Number | None
    accuracy: Number | None


class Bin(_Bin, total=False):
    """One bin of the calibration."""

    lower: Number
    upper: Number


class Confusion(TypedDict):
    """How often one class was taken for another."""

    label: Count
    predicted: Count
    count: Count


class Metrics(TypedDict, total=False):
    """The figures of an evaluation."""

    accuracy: Number | None
    many: Number | None
    medium: Number | None
    few: Number | None
    mean_class_accuracy: Number | None
    macro_f1: Number | None
    worst_class: Number | None
    harmonic_mean: Number | None
    geometric_mean: Number | None
    expected_calibration_error: Number | None
    log_loss: OfFp32 | None
    samples: Count
    non_finite: Count
    group_boundaries: Boundaries
    group_sizes: dict[str, Count]
    per_class: list[Number | None]
    calibration: list[Bin]
    confusions: list[Confusion]
    intervals: dict[str, tuple[OfFp32, OfFp32]]


class Data(TypedDict, total=False):
    """A data set: ``data.json``."""

    name: Text
    classes: Count
    train_images: Count
    val_images: Count
    test_images: Count
    class_names: list[Text]
    class_counts: list[Count]
    group_counts: list[Count]
    group_boundaries: Boundaries
    fingerprints: dict[str, Text]
    notes: list[Text]


class Model(TypedDict, total=False):
    """A model, and how much of it trains."""

    name: Text
    rank: Count | None
    tuner_parameters: Count
    tuner_share: Number
    head_parameters: Count
    tuned_parameters: Count
    image_size: Count


class Process(TypedDict):
    """One of several processes that trained a run, and the share of the time in which it waited for data."""

    rank: Count
    host: Text
    data_wait_share: Number


class Chosen(TypedDict):
    """The checkpoint that the test split was evaluated with, where it was chosen on a validation split."""

    name: Text
    step: Count
    best_by: Text
    evaluations: Count


class _Ingredient(TypedDict):
    run: Text
    checkpoint: Text
    weight: Number


class Ingredient(_Ingredient, total=False):
    """A checkpoint that a soup is made of; its figures are of its own run's evaluation."""

    name: Text
    digest: Text
    settings: dict[str, Any]
    validation: OfFp32 | None
    test: Text | None
    figures: Metrics | None


class _Soup(TypedDict):
    how: Text
    ingredients: list[Ingredient]


class Soup(_Soup, total=False):
    """What a run's values are averages of: ``soup.json``."""

    best_by: Text
    validation: OfFp32 | None


class _Results(TypedDict):
    metrics: Metrics


class Results(_Results, total=False):
    """A run that has ended: ``results.json``."""

    recipe: Text
    epochs: Count
    steps: Count
    model: Model
    data: Data
    evaluations: dict[str, Metrics]
    timing: dict[str, Number]
    machine: dict[str, Any]
    versions: dict[str, Any]
    replaced_images: Count
    checkpoint: Chosen
    weights: Text
    validation: Metrics
    processes: list[Process]
    soup: Soup


class _Event(TypedDict):
    step: Count
    event: Text


class Event(_Event, Metrics, total=False):
    """A line of ``metrics.jsonl``."""

    split: Text
    checkpoint: Text
    loss: OfFp32 | None
    train_loss: OfFp32 | None
    learning_rate: OfFp32 | None
    train_accuracy: Number | None
    image_size: Number | None
    images_per_s: Number | None
    data_wait_share: Number | None
    data_wait_rank: Count | None
    data_wait_by_rank: list[Number]
    seconds: Number | None
    evaluate_s: Number | None


def read_data(path: Path) -> Record:
    """A run's ``data.json``; one that is missing or damaged is refused."""
    return _read(path, Data, "fastlift train --resume writes it again")


def read_results(path: Path) -> Record:
    """A run's ``results.json``; one that is missing or damaged is refused."""
    return _read(path, Results, "fastlift train --resume keeps it aside and evaluates again")


def read_soup(path: Path) -> Record:
    """A run's ``soup.json``.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    return _read(path, Soup, "the soup has to be made again (fastlift soup ... --overwrite)")


def is_event(value: Any) -> bool:
    """Whether a line of ``metrics.jsonl`` holds an event: its kind, its step, and figures where figures belong."""
    return fits(Event, value)


def fits(kind: Any, value: Any) -> bool:
    """Whether a value from JSON is of a type of this file, or of one made of them."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def said(kind: Any) -> str:
    """A type in words."""
    return kind.__metadata__[-1].description or str(kind) if get_origin(kind) is Annotated else "an object"


def _read(path: Path, kind: Any, way_on: str) -> Record:
    try:
        value = read_json(path)
        wrong = next(_contradictions(value), None) if fits(kind, value) else _first_wrong(kind, value, "")
    except UserError as error:
        wrong = str(error)
    if wrong is None:
        return value
    raise UserError(f"{wrong if wrong.startswith(str(path)) else f'{path}: {wrong}'}; {way_on}")


def _first_wrong(kind: Any, value: Any, where: str) -> str | None:
    """The first place where a value is not of its kind, in words; msgspec would name neither the key nor the value."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):  # something, or null
        return None if value is None else _first_wrong(inner[0], value, where)
    parts: Iterator[tuple[Any, Any, str]]
    if is_typeddict(kind) and isinstance(value, dict):
        if missing := sorted(kind.__required_keys__ - value.keys()):
            return f"{_place(where)} has no {missing[0]}"
        parts = ((hint, value[name], f"{where}.{name}") for name, hint in _hints(kind).items() if name in value)
    elif get_origin(kind) is dict and isinstance(value, dict):
        parts = ((inner[1], item, f"{where}.{name[:40]}") for name, item in value.items())
    elif get_origin(kind) is list and isinstance(value, list):
        parts = ((inner[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    elif fits(kind, value):
        return None
    else:
        expected = "a list" if get_origin(kind) is list else said(kind)
        shown = repr(value)
        return f"{_place(where)}: expected {expected}, got {shown if len(shown) <= 40 else f'{shown[:36]}...'}"
    return next(filter(None, (_first_wrong(*part) for part in parts)), None)


def _place(where: str) -> str:
    return where.lstrip(".") or "the file"


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _contradictions(value: Record) -> Iterator[str]:
    """What no type tells, of ``data.json`` and ``results.json``: boundaries that fall, lists of unlike length."""
    evaluations = {f"evaluations.{name[:40]}": metrics for name, metrics in value.get("evaluations", {}).items()}
    parts = {"": value, "data": value.get("data", {}), "metrics": value.get("metrics", {}), **evaluations}
    for where, part in parts.items():
        if "group_boundaries" in part and part["group_boundaries"][0] > part["group_boundaries"][1]:
            place = _place(f"{where}.group_boundaries")
            yield f"{place}: expected two numbers that do not fall, got {part['group_boundaries']}"
        lengths = {name: len(part[name]) for name in ("class_names", "class_counts", "group_counts") if name in part}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
            yield f"{_place(where)}: expected as many of each, got {listed}"
