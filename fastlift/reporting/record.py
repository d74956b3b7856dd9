"""Reading a run folder back: plain files, of a run that ended, is still going, or was killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlift.advice.record import Advice
from fastlift.data.index.groups import GROUP_BOUNDARIES, group_masks
from fastlift.errors import UserError
from fastlift.evaluation.confusion import Confusions
from fastlift.evaluation.resampling import Answers, Draws, draw
from fastlift.runs.advice_file import read_advice
from fastlift.runs.calibration import calibration_path, read_calibration
from fastlift.runs.events import is_evaluation, read_events
from fastlift.runs.folder import RunFolder
from fastlift.runs.predictions import Predictions, predictions_path, read_predictions
from fastlift.runs.stored import Record, read_data, read_results
from fastlift.system.files import read_json


@dataclass(frozen=True)
class RunRecord:
    """One run folder.

    config: ``config.json``. data: ``data.json``, or the results' section of that name; empty where neither is there.
    steps, epochs, evaluations (of the test split), validations: the events of ``metrics.jsonl`` by step; where one was
    logged twice, as after a kill, the later line counts. results: ``results.json``, None for a run that has not ended.
    notes: what a reader should know about the files' state, as sentences. predictions: what was said of each image in the
    final evaluation, where that is there and whole. advice: ``advice.json``, where ``fastlift advise`` has written one.
    calibration: ``calibration.json``, likewise.
    """

    name: str
    config: Record
    data: Record
    steps: tuple[Record, ...]
    epochs: tuple[Record, ...]
    evaluations: tuple[Record, ...]
    validations: tuple[Record, ...]
    results: Record | None
    notes: tuple[str, ...]
    predictions: Predictions | None = None
    advice: Advice | None = None
    calibration: Record | None = None

    @property
    def finished(self) -> bool:
        return self.results is not None

    def section(self, name: str) -> Record:
        """One part of the results ("model", "timing", "machine", ...), empty where absent."""
        return (self.results or {}).get(name, {})

    @property
    def processes(self) -> list[Record]:
        """Those that trained it, where there were several: rank, host, and the share of the time waited for data."""
        return list((self.results or {}).get("processes", []))

    def metrics(self) -> Record:
        """The final figures; for an unfinished run those of its last evaluation; empty where there is none."""
        on_the_way = self.evaluations or self.validations
        return self.section("metrics") or (dict(on_the_way[-1]) if on_the_way else {})

    def named_evaluations(self) -> dict[str, Record]:
        """Figures by the way of testing ("center", "fivecrop", ...)."""
        return self.section("evaluations")

    @cached_property
    def confusions(self) -> Confusions | None:
        """The mistakes of the final evaluation; None where what was said of each image is not there."""
        if self.predictions is None:
            return None
        images = self.predictions.images
        return Confusions.of(images.labels, images.predicted, len(self.class_names()))

    @cached_property
    def draws(self) -> Draws | None:
        """Test sets drawn from that of the final evaluation; None where what was said of every image is not there."""
        if self.predictions is None or self.predictions.images.every > 1:
            return None
        found = self.predictions.images
        answers = Answers(found.labels, found.predicted, found.confidence, found.label_probability)
        return draw(answers, len(self.class_names()))

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Which classes are many, medium and few: masks [C]; empty where the run does not tell."""
        counts = self.data.get("group_counts") or self.data.get("class_counts") or []
        lower, upper = self.data.get("group_boundaries") or GROUP_BOUNDARIES
        return group_masks(counts, (lower, upper)) if len(counts) == len(self.class_names()) else {}

    def class_names(self) -> list[str]:
        """Names of the classes, "class 7" where the run does not tell; as many as there are class accuracies."""
        count = len(self.metrics().get("per_class") or self.data.get("class_counts") or [])
        names = self.data.get("class_names") or []
        return [str(names[index]) if index < len(names) else f"class {index}" for index in range(count)]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder as `docs/reading_a_run.md` describes it.

    Raises:
        UserError: the folder is missing, has no ``config.json``, or holds a JSON file that cannot be read.
    """
    run = RunFolder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder")
    if not run.config.is_file():
        raise UserError(f"{folder}: not a run folder, it has no config.json (a run is what `fastlift train` writes)")
    events, notes = _read_events(run.metrics)
    results = read_results(run.results) if run.has_ended() else None
    data = read_data(run.data) if run.data.is_file() else {}
    data = (results or {}).get("data") or data
    predictions = None if results is None else _read_predictions(run, results, notes)
    advice = None if results is None else _read_advice(run, notes)
    calibration = _read_calibration(run, notes)
    if results is None:
        notes.insert(0, "This run has not ended: it has no results.json yet.")
    return RunRecord(
        name=folder.resolve().name,
        config=read_json(run.config),
        data=data,
        steps=_by_step(events, "step"),
        epochs=_by_step(events, "epoch"),
        evaluations=_by_step([event for event in events if is_evaluation(event, "test")], "evaluation"),
        validations=_by_step([event for event in events if is_evaluation(event, "val")], "evaluation"),
        results=results,
        predictions=predictions,
        advice=advice,
        calibration=calibration,
        notes=tuple(notes),
    )


def _read_calibration(run: RunFolder, notes: list[str]) -> Record | None:
    """What was fitted after training; a note tells where the file is damaged."""
    try:
        return read_calibration(run) if calibration_path(run).is_file() else None
    except UserError as error:
        notes.append(f"{error}.")
        return None


def same_figures(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations found the same; intervals, which runs of earlier versions have none of, aside."""
    names = (one.keys() | other.keys()) - {"intervals"}
    return all(one.get(name) == other.get(name) for name in names)


def _read_predictions(run: RunFolder, results: Record, notes: list[str]) -> Predictions | None:
    """What was said of each image in the evaluation whose figures are the run's; a note tells where it is not there."""
    rows = results.get("evaluations", {})
    name = next((name for name, metrics in rows.items() if same_figures(metrics, results["metrics"])), None)
    classes = len(results["metrics"].get("per_class") or [])
    if name is None or not classes:
        return None
    again = "fastlift evaluate writes them"
    path = predictions_path(run.path, name)
    if not path.is_file():
        notes.append(f"It has no {path.name} of predictions, so no images and no confusion matrix are shown; {again}.")
        return None
    try:
        found = read_predictions(path)
    except UserError as error:
        notes.append(f"{error}; {again} again.")
        return None
    test = results.get("data", {}).get("fingerprints", {}).get("test", found.fingerprint)
    highest = max(found.images.labels.max(initial=0), found.images.predicted.max(initial=0))
    if (
        found.fingerprint != test
        or highest >= classes
        or found.images.labels.min(initial=0) < 0
        or not len(found.images)
    ):
        notes.append(f"{path} is of another test set, and was left out; {again} again.")
        return None
    return found


def _read_advice(run: RunFolder, notes: list[str]) -> Advice | None:
    """A damaged one is told, and left out."""
    try:
        return read_advice(run.path)
    except UserError as error:
        notes.append(f"{error}.")
        return None


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read several runs; runs of the same name are told apart by as many parent folders as that takes.

    Raises:
        UserError: no folder was given, one was given twice, or one cannot be read (see `read_run`).
    """
    if not folders:
        raise UserError("no run folder was given")
    resolved = [Path(folder).resolve() for folder in folders]
    twice = sorted({str(folder) for folder in resolved if resolved.count(folder) > 1})
    if twice:
        raise UserError(f"the same run was given twice: {', '.join(twice)}")
    records = [read_run(folder) for folder in folders]
    names = _distinct_names(resolved)
    return [replace(record, name=name) for record, name in zip(records, names, strict=True)]


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _read_events(path: Path) -> tuple[list[Record], list[str]]:
    """The events of ``metrics.jsonl``, and notes on lines that a killed run left unreadable."""
    if not path.is_file():
        return [], ["It has no metrics.jsonl: there are no learning curves."]
    found, unreadable = read_events(path)
    events = [event for event, _ in found]
    notes = []
    if unreadable == [len(events) + 1]:
        notes.append("The last line of metrics.jsonl is incomplete, as a killed run leaves it; it was left out.")
    elif unreadable:
        shown = ", ".join(map(str, unreadable[:10])) + (" …" if len(unreadable) > 10 else "")
        notes.append(f"{len(unreadable)} lines of metrics.jsonl could not be read and were left out: {shown}.")
    return events, notes


def _by_step(events: Sequence[Mapping[str, Any]], kind: str) -> tuple[Record, ...]:
    of_kind = {event["step"]: dict(event) for event in events if event["event"] == kind}
    return tuple(of_kind[step] for step in sorted(of_kind))
