"""Where to spend, by the record of a run: what loses most, and what the data are to blame for."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fastlift.advice.ranking import class_costs, class_weights, figure_of
from fastlift.advice.record import Advice, ImageName
from fastlift.advice.settings import AdviceSettings
from fastlift.config import Config, load
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.engine.advice_looks import Looking, Looks
from fastlift.engine.advice_probes import Probing, doubts_of, growth_of, start_of
from fastlift.engine.build import load_data
from fastlift.engine.duplicates import duplicates_of
from fastlift.engine.model import load_run
from fastlift.errors import UserError
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.evaluation.thumbnails import ThumbnailSettings, make_thumbnails
from fastlift.models.create import CreateSettings
from fastlift.models.precision import resolve_amp, shape_of
from fastlift.reporting.notebook import ui_for
from fastlift.reporting.record import RunRecord, read_run
from fastlift.runs import folder as runs
from fastlift.runs.advice_file import write_advice
from fastlift.runs.claims import claimed
from fastlift.runs.split_lists import data_of_run
from fastlift.system.progress import Ui
from fastlift.system.settings import DeviceSettings, ThreadSettings

PATIENCE_S = 60.0
SHOWN = 24  # images or pairs of each kind that the page shows, with thumbnails


def advise(
    folder: str | Path,
    checkpoint: str | None = None,
    settings: dict[str, Any] | None = None,
    *,
    dataset: DataSet | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
    **asked: Any,
) -> Advice:
    """Say where to spend: classes that lose most, labels that look wrong, copies between splits, what more images would bring.

    Kept as ``advice.json`` in the run folder and shown on its page.

    Args:
        folder: a run that has ended.
        checkpoint: whose features are used; default as in ``fastlift.load_run``.
        settings: changes to the run's settings: ``data_root``, ``device``, ``amp``, ``eval_batch``, ``workers`` ...
        dataset: the data set of a run whose data came from Python, made again.
        ui: where progress is told; see ``fastlift.train``.
        asked: of ``AdviceSettings``: ``figure``, ``parts``, ``more``, ``most_images``, ``seed``.

    Raises:
        UserError: no run; one that has not ended, or keeps no predictions; data that are gone or are others.
    """
    wanted, told = AdviceSettings(**asked), ui_for(ui)
    run = runs.open_run(Path(folder))
    record = _whole_record(run)
    work = AdviceWork(wanted, record, run, load(run.config).override(**(settings or {})), told)
    if set(wanted.parts) - {"classes"}:
        work.look_at_images(checkpoint, dataset)
    advice = work.advice()
    with claimed(run.path, told.say, wait=PATIENCE_S):
        from fastlift.reporting.html import write_report

        write_advice(run.path, advice)
        write_report([run.path], run.report)
    return advice


def _whole_record(run: runs.RunFolder) -> RunRecord:
    """The record of a run that has ended and tells its predictions."""
    record = read_run(run.path)
    if not record.finished:
        raise UserError(f"{run.path} has not ended, so there is nothing to judge yet; {runs.way_on(run.path)}")
    if record.predictions is None:
        why = next((note for note in record.notes if "predictions" in note), "")
        raise UserError(
            f"{run.path} keeps no predictions of its test images, of which an advice is made. {why} Write them with: "
            f"fastlift evaluate {run.path}"
        )
    return record


@dataclass
class AdviceWork:
    """One advice in the making."""

    wanted: AdviceSettings
    record: RunRecord
    run: runs.RunFolder
    config: Config
    ui: Ui
    found: dict[str, Any] = field(default_factory=dict)  # fields of the advice
    seconds: dict[str, float] = field(default_factory=dict)
    shown: list[ImageName] = field(default_factory=list)
    data: DataSet | None = None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def look_at_images(self, checkpoint: str | None, dataset: DataSet | None) -> None:
        """What takes the images: features of the trained backbone first, then what is made of them."""
        run = self.config.run
        device = run.part(DeviceSettings).build()
        with self._timed("data"):
            self.data = data = self._load_data(dataset)
        path = self.run.find_checkpoint(checkpoint, self.ui.say)
        self.found |= {"checkpoint": "" if path is None else path.stem, "device": str(device)}
        model = load_run(self.run.path, checkpoint, self.ui)
        with run.part(ThreadSettings).use():
            named = runs.amp_of(self.run.path, run.amp)
            model.set_compute_dtype(resolve_amp(named, device, shape_of(model.vit, run.eval_batch)).dtype)
            looking = Looking(model.to(device), self.config.part(EvaluationSettings), self.ui)
            looks = {split: self._looked(looking, data.splits[split]) for split in ("train", "test")}
            self.found["looked_at"] = {split: len(look.rows) for split, look in looks.items()}
            self.found["of"] = {split: len(data.splits[split]) for split in looks}
            if "labels" in self.wanted.parts or "growth" in self.wanted.parts:
                self._probe(looking, data, looks, device)
            if "duplicates" in self.wanted.parts:
                with self._timed("duplicates"):
                    duplicates = duplicates_of(looking, data, looks, self.record, self.wanted)
                self.found["duplicates"] = duplicates
                for pair in duplicates.pairs[:SHOWN]:
                    self.shown += [pair.test, pair.train]

    def _probe(self, looking: Looking, data: DataSet, looks: dict[str, Looks], device: torch.device) -> None:
        """What classifiers tell that are fitted on the features."""
        with self._timed("start of the classifier"):
            start, name = start_of(self.config.part(CreateSettings), data.class_names, self.ui)
            probing = Probing.of(
                looks["train"], looks["test"], start, name, len(data.class_names), device, self.wanted.seed
            )
        if "labels" in self.wanted.parts:
            with self._timed("labels"):
                self.found["labels"] = labels = doubts_of(probing, data, looks, self.ui)
                for one in labels:
                    self.shown += [doubt.image for doubt in one.doubts[:SHOWN]]
        if "growth" in self.wanted.parts:
            val = None if data.val is None else self._looked(looking, data.val)
            with self._timed("growth"):
                self.found["growth"] = growth_of(probing, val, self.record, self.wanted, self.ui)

    def _looked(self, looking: Looking, index: ImageIndex) -> Looks:
        split = index.name.rpartition("/")[2]
        with self._timed(f"features of {split}"):
            return looking.split(index, self.wanted.most_images, self.wanted.seed, f"features, {split}")

    def _load_data(self, dataset: DataSet | None) -> DataSet:
        """The run's data, which must be those of its training."""
        try:
            data = load_data(data_of_run(self.run, self.config.data), self.ui, None, dataset)
        except UserError as error:
            moved = "" if dataset is not None else ". If the images have moved, name their place with --data-root"
            raise UserError(f"{str(error).rstrip('.')}{moved}", exit_code=error.exit_code) from None
        if self.run.class_names() != data.class_names:
            raise UserError(f"the data set has other classes than {self.run.path} was trained on")
        known = self.record.data.get("fingerprints") or {}
        for split in ("train", "test"):
            if known.get(split, data.splits[split].fingerprint) != data.splits[split].fingerprint:
                raise UserError(
                    f"these are not the {split} images that {self.run.path} was made with: the list, sizes or names changed, so "
                    "rows of the record would name other images. Put the data back, or train again"
                )
        return data

    def advice(self) -> Advice:
        """All that was found, with what it was made of."""
        record, wanted = self.record, self.wanted
        assert record.confusions is not None
        assert record.predictions is not None
        groups = record.groups()
        weights = class_weights(wanted.figure, record.confusions.images, groups)
        counts = record.data.get("class_counts") or [0] * len(record.class_names())
        if "classes" in wanted.parts:
            self.found["classes"] = class_costs(record.confusions, weights, record.class_names(), counts, groups)
        value, low, high = figure_of(wanted.figure, weights, record.confusions.right, record.confusions.images)
        rows = record.named_evaluations()
        with self._timed("thumbnails"):
            thumbnails = self._thumbnails()
        return Advice(
            figure=wanted.figure,
            value=value,
            low=low,
            high=high,
            evaluation=next((name for name, metrics in rows.items() if metrics == record.metrics()), ""),
            every=record.predictions.images.every,
            seed=wanted.seed,
            seconds={part: round(seconds, 3) for part, seconds in self.seconds.items()},
            thumbnails=thumbnails,
            **{"checkpoint": "", "device": "", "looked_at": {}, "of": {}} | self.found,
        )

    def _thumbnails(self) -> dict[str, str]:
        """Small copies of the images that the page shows; none where the run keeps none."""
        if self.data is None or not self.config.part(ThumbnailSettings).thumbnails:
            return {}
        found: dict[str, str] = {}
        for split in ("train", "test"):
            rows = sorted({image.row for image in self.shown if image.split == split})
            made = make_thumbnails(self.data.splits[split], rows, self.ui.say) if rows else {}
            found |= {f"{split}/{row}": base64.b64encode(jpeg).decode() for row, jpeg in made.items()}
        return found
