"""What the JSON files of a run hold, checked where they are read: damage is told, with the way on, and never shown as a figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastlift.errors import UserError
from fastlift.settings.ranges import MOST
from fastlift.system.files import read_json

Record = dict[str, Any]
Check = Callable[[Any, str], None]
LARGEST_NUMBER = 1e15
LARGEST_OF_FP32 = 1e39  # a training that diverges may come near the largest number of fp32, and that is what it did


def read_data(path: Path) -> Record:
    """A run's ``data.json``.

    Raises:
        UserError: it is missing or damaged.
    """
    return _read(path, DATA, "fastlift train --resume writes it again")


def read_results(path: Path) -> Record:
    """A run's ``results.json``.

    Raises:
        UserError: it is missing or damaged.
    """
    return _read(path, RESULTS, "fastlift train --resume keeps it aside and evaluates again")


def is_event(value: Any) -> bool:
    """Whether a line of ``metrics.jsonl`` holds an event: its kind, its step, and figures where figures belong."""
    try:
        EVENT(value, "event")
    except ValueError:
        return False
    return True


def _read(path: Path, check: Check, way_on: str) -> Record:
    try:
        value = read_json(path)
        check(value, "")
    except (UserError, ValueError) as error:
        told = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        raise UserError(f"{told}; {way_on}") from None
    return value


def _fail(where: str, expected: str, value: Any) -> None:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:36]}..."
    raise ValueError(f"{where.lstrip('.') or 'the file'}: expected {expected}, got {shown}")


def _number(value: Any, where: str, largest: float = LARGEST_NUMBER) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= largest:
        _fail(where, "a number", value)


def _of_fp32(value: Any, where: str) -> None:
    _number(value, where, LARGEST_OF_FP32)


def _count(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        _fail(where, "a whole number, 0 or more", value)


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        _fail(where, "text", value)


def _any(value: Any, where: str) -> None:
    pass


def _or_null(check: Check) -> Check:
    def checked(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return checked


def _list(check: Check) -> Check:
    def checked(value: Any, where: str) -> None:
        if not isinstance(value, list):
            _fail(where, "a list", value)
        for place, item in enumerate(value):
            check(item, f"{where}[{place}]")

    return checked


def _by_name(check: Check) -> Check:
    def checked(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "an object", value)
        for name, item in value.items():
            check(item, f"{where}.{name[:40]}")

    return checked


def _fields(needed: tuple[str, ...] = (), /, **checks: Check) -> Check:
    """An object; what it has of these names must be right, and ``needed`` be there. Others may stand beside them."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _fail(where, "an object", value)
        for name, check in checks.items():
            if name in value:
                check(value[name], f"{where}.{name}")
            elif name in needed:
                raise ValueError(f"{where.lstrip('.') or 'the file'} has no {name}")

    return checked


def _boundaries(value: Any, where: str) -> None:
    _list(_count)(value, where)
    if len(value) != 2 or value[0] > value[1]:
        _fail(where, "two numbers that do not fall", value)


def _data(value: Any, where: str) -> None:
    _DATA_FIELDS(value, where)
    lengths = {name: len(value[name]) for name in ("class_names", "class_counts", "group_counts") if name in value}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"{where.lstrip('.') or 'the file'}: expected as many of each, got {listed}")


_FIGURES = (
    "accuracy", "many", "medium", "few", "mean_class_accuracy", "macro_f1", "worst_class", "harmonic_mean",
    "geometric_mean", "expected_calibration_error",
)  # fmt: skip
_BIN = _fields(
    ("count", "confidence", "accuracy"),
    lower=_number, upper=_number, count=_count, confidence=_or_null(_number), accuracy=_or_null(_number),
)  # fmt: skip
_METRIC_CHECKS: dict[str, Check] = {name: _or_null(_number) for name in _FIGURES} | {
    "log_loss": _or_null(_of_fp32),
    "samples": _count,
    "non_finite": _count,
    "group_boundaries": _boundaries,
    "group_sizes": _by_name(_count),
    "per_class": _list(_or_null(_number)),
    "calibration": _list(_BIN),
    "confusions": _list(
        _fields(("label", "predicted", "count"), label=_count, predicted=_count, count=_count),
    ),
}
METRICS = _fields(**_METRIC_CHECKS)
_DATA_FIELDS = _fields(
    name=_text,
    classes=_count,
    train_images=_count,
    test_images=_count,
    class_names=_list(_text),
    class_counts=_list(_count),
    group_counts=_list(_count),
    group_boundaries=_boundaries,
    fingerprints=_by_name(_text),
)
DATA: Check = _data
_MODEL = _fields(
    name=_text,
    rank=_or_null(_count),
    tuner_parameters=_count,
    tuner_share=_number,
    head_parameters=_count,
    tuned_parameters=_count,
    image_size=_count,
)
RESULTS = _fields(
    ("metrics",),
    recipe=_text,
    epochs=_count,
    steps=_count,
    model=_MODEL,
    data=DATA,
    metrics=METRICS,
    evaluations=_by_name(METRICS),
    timing=_by_name(_number),
    machine=_by_name(_any),
    versions=_by_name(_any),
    replaced_images=_count,
)
_EVENT_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("loss", "train_loss", "learning_rate"), _or_null(_of_fp32)),
    **dict.fromkeys(("train_accuracy", "images_per_s", "seconds"), _or_null(_number)),
}
EVENT = _fields(("step", "event"), **_METRIC_CHECKS, **_EVENT_CHECKS, event=_text, step=_count)
