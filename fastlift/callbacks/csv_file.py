"""``metrics.csv`` in the run folder: the events as a table, for spreadsheets."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fastlift.callbacks.callback import Callback, Event, RunStart
from fastlift.system.files import append_line, write_text

COLUMNS = (  # tests/engine/test_callbacks.py holds them to what a run tells
    *("event", "step", "epoch", "split", "loss", "accuracy", "train_loss", "train_accuracy", "learning_rate"),
    *("image_size", "images_per_s", "data_wait_share", "data_wait_rank", "data_wait_by_rank", "many", "medium", "few"),
    *(
        "mean_class_accuracy",
        "macro_f1",
        "worst_class",
        "harmonic_mean",
        "geometric_mean",
        "expected_calibration_error",
        "log_loss",
        "samples",
    ),
    *("non_finite", "checkpoint", "evaluate_s", "seconds"),
)


class CsvFile(Callback):
    """A row an event; what an event does not have is empty. Where a run goes on, the file is made anew of its history."""

    name = "csv"

    def on_start(self, run: RunStart) -> None:
        self._path: Path = run.folder / "metrics.csv"
        rows = [_line({name: name for name in COLUMNS}), *(_line(event) for event in run.history)]
        write_text(self._path, "".join(f"{row}\n" for row in rows), parents=False)

    def on_step(self, step: int, values: Event) -> None:
        self._append("step", step, values)

    def on_epoch(self, step: int, values: Event) -> None:
        self._append("epoch", step, values)

    def on_evaluation(self, step: int, values: Event) -> None:
        self._append("evaluation", step, values)

    def _append(self, event: str, step: int, values: Event) -> None:
        append_line(self._path, _line({"event": event, "step": step, **values}).encode())


def _line(values: Event) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="").writerow(values)
    return text.getvalue()
