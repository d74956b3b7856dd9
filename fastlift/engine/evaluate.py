"""Evaluating what is there: a run at its checkpoints, or CLIP as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fastlift.config import Config, RunConfig, load
from fastlift.data.datasets.dataset import DataSet, Rank
from fastlift.data.datasets.taxon import rank_at
from fastlift.data.index.groups import group_masks
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.engine.agreement import agree, first_amp, join
from fastlift.engine.averages import RAW, check_weights
from fastlift.engine.build import load_data
from fastlift.engine.keeping import keep_per_image
from fastlift.engine.memory import Work, check_images
from fastlift.engine.model import build_model, load_run
from fastlift.engine.processes import company
from fastlift.engine.validation import validation_split
from fastlift.errors import UserError
from fastlift.evaluation.calibration import weights_of
from fastlift.evaluation.evaluate import Evaluation, evaluate, rank_counts
from fastlift.evaluation.paired_tests import compare
from fastlift.evaluation.per_image import PerImage
from fastlift.evaluation.selective import selective
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.evaluation.thumbnails import ThumbnailSettings
from fastlift.models.compile import CompileSettings, compile_backbone, training_tflop
from fastlift.models.create import CreateSettings
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fused import FusedSettings
from fastlift.models.lift import LiftModel
from fastlift.models.precision import dtype_name, shape_of
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.models.weights import weights_fingerprint
from fastlift.reporting.notebook import ui_for
from fastlift.runs import folder as runs
from fastlift.runs.calibration import calibration_in, read_calibration
from fastlift.runs.checkpoints import epoch_path
from fastlift.runs.claims import InUse, claimed
from fastlift.runs.split_lists import data_of_run
from fastlift.runs.stored import Record, read_data, read_results
from fastlift.system.device import using_device
from fastlift.system.files import write_json
from fastlift.system.progress import Quiet, Ui
from fastlift.system.settings import ThreadSettings
from fastlift.training.averaging import Weights
from fastlift.training.distributed import World

PATIENCE_S = 60.0


def evaluate_run(
    folder: str | Path,
    checkpoints: Sequence[str] = (),
    split: Literal["test", "val", "train"] = "test",
    settings: dict[str, Any] | None = None,
    *,
    dataset: DataSet | None = None,
    calibrated: bool = False,
    weights: Weights | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
) -> dict[str, dict[str, Any]]:
    """Evaluate a run at one or several checkpoints, and add what comes out to its ``results.json`` and its page.

    Args:
        folder: the run.
        checkpoints: names such as ``epoch-003``, ``best`` or ``last``; none for the one of the run's own test: the best
            where the run chose one on a validation split, else the last.
        split: which split to evaluate.
        dataset: the data set of a run whose data came from Python (``fastlift.data.from_dataset`` and the others), made again; or
            another one with the same classes, the images of which are evaluated. Many, medium and few are those of the training.
        settings: changes to the run's settings: ``tte``, ``tte_crops``, ``expand``, ``device``, ``amp``, ``data_root`` ...;
            ``taxon`` evaluates a run on iNaturalist's species at a higher rank. Without ``amp`` in the dtype of the training.
        calibrated: with what ``fastlift calibrate`` fitted to the run; with a threshold also ``coverage``,
            ``selective_accuracy`` and ``right_rejected``, in percent (not at a rank; of several processes on the first).
        weights: "raw" evaluates what trained, of a run that keeps an average of it; default: the average.
        ui: where progress is told; see ``fastlift.train``.

    Returns:
        metrics (and, of several checkpoints, ``against``: McNemar's tests against the first, see ``PairedTest``) by a name that
        says the crops; checkpoint and split where they are not the usual ones; the fingerprint of the images where they are not
        those of the training's own evaluation; the dtype where it is not the training's; and whether they are calibrated.

    Raises:
        UserError: no such run or checkpoint, or data with other classes; no calibration, or one of another checkpoint or of
            other crops.
    """
    with company() as world:
        return _evaluate_among_others(
            Path(folder), checkpoints, split, settings or {}, dataset, calibrated, weights, world, ui_for(ui)
        )


def _evaluate_among_others(
    folder: Path,
    checkpoints: Sequence[str],
    split: Literal["test", "val", "train"],
    settings: dict[str, Any],
    dataset: DataSet | None,
    calibrated: bool,
    weights: Weights | None,
    world: World,
    ui: Ui,
) -> dict[str, dict[str, Any]]:
    told, run = ui if world.is_main else Quiet(), runs.open_run(folder)
    trained, identity = load(run.config), run.identity()
    check_weights(trained.training.ema, weights)
    config = trained.override(**settings)
    config = config.merged(amp=runs.amp_of(run.path, config.run.amp))
    if trained.data.taxon not in ("species", config.data.taxon):
        raise UserError(
            f"taxon {config.data.taxon}: this run was trained on each {trained.data.taxon}; only a run on species "
            "can be evaluated at a rank"
        )
    fitted = read_calibration(run) if calibrated else None
    if fitted is not None:
        if len(checkpoints) > 1:
            raise UserError(
                "a calibration is of one checkpoint: name that one, or evaluate several without --calibrated"
            )
        calibration_in(fitted).check_crops(config.part(EnsemblingSettings))
    device = join(world, config, split=split, checkpoints=checkpoints, calibrated=calibrated, weights=weights)
    data = load_data(data_of_run(run, config.override(taxon=trained.data.taxon).data), told, world, dataset)
    rank = None if config.data.taxon == trained.data.taxon else rank_at(data, config.data.taxon)
    index = validation_split(data, "--split val") if split == "val" else data.splits[split]
    if run.class_names() != data.class_names:
        raise UserError(f"the data set has other classes than {run.path} was trained on")
    stored = read_data(run.data)
    known = stored.get("fingerprints", {}).get(split, index.fingerprint)
    group_counts = stored.get("group_counts", data.group_counts.tolist())
    if known != index.fingerprint:
        told.say(f"these are not the {split} images of the training: the list, sizes or names changed")
    results = read_results(run.results) if run.has_ended() else None  # a damaged file is told before the work
    checkpoints = [_stem(run, wanted) for wanted in checkpoints]  # a name that is none is told before the work too
    unusual = {
        RAW: weights == "raw",
        f" ({split})": split != "test",
        f" (images {index.fingerprint[:8]})": index.fingerprint != known,
        f" ({config.data.taxon})": rank is not None,
        " (groups at {}, {})".format(*config.data.group_boundaries): (
            config.data.group_boundaries != trained.data.group_boundaries
        ),
        f" ({config.run.amp})": identity is not None and config.run.amp != identity.dtype,
        " (calibrated)": calibrated,
        f" ({'' if config.run.frozen == 'fp8' else 'without '}fp8)": config.run.frozen != trained.run.frozen,
    }
    marks = "".join(mark for mark, holds in unusual.items() if holds)
    rows: dict[str, dict[str, Any]] = {}
    said: dict[str, PerImage] = {}
    for checkpoint in checkpoints or (_in_place_of_its_own(run, results, trained.training.epochs, told),):
        model = load_run(folder, checkpoint, told, calibrated=calibrated, weights=weights)
        name = config.run.ensembling_name + ("" if checkpoint is None else f"@{checkpoint}") + marks
        told.say(f"{name}: {len(index):,} images")
        evaluation = evaluate_on(model, index, group_counts, config, device, world, ui, rank, per_image=True)
        rows[name] = evaluation.metrics.to_dict() | _of_calibration(fitted, evaluation.per_image, rank)
        if evaluation.per_image is not None:
            said[name] = evaluation.per_image
    if results is not None and world.is_main:

        def keep_images() -> None:
            trained_on = np.array(stored.get("class_counts", data.train.class_counts()))
            counts, of = rank_counts(trained_on, rank).tolist(), config.part(ThumbnailSettings)
            for name, found in said.items():
                keep_per_image(run, name, found, index, counts, of, told)

        try:
            _keep(run, results, rows, keep_images, told)
        except (InUse, OSError) as error:  # somebody else's run, perhaps: what was found is returned all the same
            told.say(f"not kept in {run.results}: {error.strerror if isinstance(error, OSError) else error}")
    if len(said) > 1:
        counts = rank_counts(np.asarray(group_counts, dtype=np.int64), rank)
        _add_tests(rows, said, {"overall": counts >= 0, **group_masks(counts.tolist(), config.data.group_boundaries)})
    return rows


def _of_calibration(fitted: Record | None, said: PerImage | None, rank: Rank | None) -> dict[str, Any]:
    """What stands beside the figures of a calibrated model: what was fitted, and what its threshold accepts."""
    if fitted is None:
        return {}
    found = {name: fitted[name] for name in ("strength", "temperature", "threshold")}
    if fitted["threshold"] is None or said is None or rank is not None:
        return found
    weights = weights_of(torch.from_numpy(said.labels).long(), fitted["settings"]["weigh"]).numpy()
    right = said.predicted == said.labels
    return found | selective(said.confidence.astype(np.float64), right, weights, fitted["threshold"]).to_dict()


def _add_tests(
    rows: dict[str, dict[str, Any]], said: dict[str, PerImage], groups: dict[str, NDArray[np.bool_]]
) -> None:
    """Add to all rows but the first how they differ from it on the same images: by group, McNemar's test."""
    first, *others = said
    for name, tests in zip(others, compare(said[first], [said[name] for name in others], groups), strict=True):
        rows[name]["against"] = {"first": first, "tests": {group: asdict(test) for group, test in tests.items()}}


def _stem(run: runs.RunFolder, wanted: str) -> str:
    """The name of the file that is asked for as ``best``, ``last`` or a number of epochs: what these mean may change."""
    path = run.find_checkpoint(wanted)
    return wanted if path is None or Path(wanted).is_file() else path.stem


def _in_place_of_its_own(run: runs.RunFolder, results: dict[str, Any] | None, epochs: int, ui: Ui) -> str | None:
    """The name of the checkpoint that is evaluated where the run's own is damaged, so that its row does not pass for the run's."""
    passed_over: list[str] = []
    path = run.find_checkpoint(None, passed_over.append)
    for reason in passed_over:
        ui.say(reason)
    own = (results or {}).get("checkpoint", {}).get("name", epoch_path(run.checkpoints, epochs).stem)
    return path.stem if passed_over and path is not None and path.stem != own else None


def _keep(
    run: runs.RunFolder,
    before: dict[str, Any],
    rows: dict[str, dict[str, Any]],
    keep_images: Callable[[], None],
    ui: Ui,
) -> None:
    """Add rows to the results as they are now: another ``evaluate`` may have added its own, or a new run taken their place."""
    from fastlift.reporting.html import write_report

    with claimed(run.path, ui.say, wait=PATIENCE_S):
        results = read_results(run.results) if run.has_ended() else {}
        if {**results, "evaluations": None} != {**before, "evaluations": None}:
            ui.say(f"not kept in {run.results}: another run has taken its place meanwhile")
            return
        keep_images()
        results["evaluations"] = results.get("evaluations", {}) | rows
        write_json(run.results, results, parents=False)
        write_report([run.path], run.report)  # the page shows every way of testing


def evaluate_on(
    model: LiftModel,
    index: ImageIndex,
    group_counts: list[int],
    config: Config,
    device: torch.device,
    world: World,
    ui: Ui,
    rank: Rank | None = None,
    *,
    per_image: bool = False,
) -> Evaluation:
    """Evaluate a model on a device, in the dtype of a config, with a bar; at a rank above its classes, if given.

    ``per_image`` asks for what the model says of each image too.

    The ranks of ``world`` share the images, and all get the same figures; each tells what it had to skip.
    """
    run = config.run
    make_ready(model, index, run, device, world, ui)

    def on_bad(bad: BadImage) -> None:
        ui.say(f"skipped {bad.path}: {bad.reason}")

    bar_of = ui if world.is_main else Quiet()
    threads = run.part(ThreadSettings).use()
    with bar_of.bar("evaluating", len(index)) as bar, threads, using_device(device):
        return evaluate(
            model,
            index,
            group_counts,
            config.part(EvaluationSettings),
            rank=rank,
            per_image=per_image,
            world=world,
            on_progress=lambda done, total: bar.update(done),
            on_bad=on_bad,
        )


def make_ready(model: LiftModel, index: ImageIndex, run: RunConfig, device: torch.device, world: World, ui: Ui) -> str:
    """Bring a model to its device, in the dtype of a run and the same on all ranks, to pass an index through it.

    Returns:
        the name of the dtype.
    """
    with run.part(ThreadSettings).use():
        amp = first_amp(world, run.amp, device, lambda: shape_of(model.vit, run.crops_at_a_time))
    if world.is_main:
        ui.say(f"{device} in {dtype_name(amp.dtype)} ({amp.why})")
    model.set_compute_dtype(amp.dtype)
    model.to(device)
    fp8 = run.part(Fp8Settings)
    fp8.check(device, amp.dtype)
    fp8.build(model.vit)
    for note in run.part(FusedSettings).build(model.vit):
        if world.is_main:
            ui.say(note)
    if run.memory == "check":
        check_images(model.vit, run, Work.of_evaluation(run, len(index)), {}, {}, device)
    agree(
        world,
        {
            "the data": index.fingerprint,
            "the backbone's weights": model.backbone_fingerprint,
            "the checkpoint": weights_fingerprint(model.state().items()),
        },
    )
    _compile_if_it_pays(model, len(index), run, device)
    return dtype_name(amp.dtype)


def _compile_if_it_pays(model: LiftModel, images: int, run: RunConfig, device: torch.device) -> None:
    size = run.crops_at_a_time
    work = training_tflop(model, size) / 2  # a step forward is half of one in training
    plan = run.part(CompileSettings).plan(device, images * run.crops_per_image // size, work)
    if plan.mode is not None:
        compile_backbone(model, plan.mode, {size})


def zero_shot(config: Config, *, ui: Ui | None = None) -> Evaluation:
    """CLIP's own accuracy on a data set's test split; writes nothing."""
    with company() as world:
        told = ui if ui is not None and world.is_main else Quiet()
        device = join(world, config)
        data = load_data(config.data, told, world, config.given)
        model = build_model(config.part(CreateSettings), data.class_names, told)
        told.say(f"{config.model.model} on {data.name}: {len(data.test):,} images, {len(data.class_names)} classes")
        counts = data.group_counts.tolist()
        return evaluate_on(model, data.test, counts, config, device, world, ui or Quiet(), per_image=True)
