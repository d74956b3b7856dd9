"""What a run says of itself: when it begins, and in ``data.json`` and ``results.json``."""

from __future__ import annotations

from typing import Any, Literal

import torch

import fastlift_kernels
from fastlift.config import Config
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.groups import GroupSettings
from fastlift.engine.averages import RAW
from fastlift.engine.loop import Fit
from fastlift.evaluation.evaluate import Evaluation
from fastlift.models.create import ModelSettings
from fastlift.models.lift import LiftModel
from fastlift.models.precision import Amp, dtype_name
from fastlift.models.tuners import tuner_size
from fastlift.system.device import describe_machine, versions
from fastlift.system.progress import Ui
from fastlift.training.class_shards import ShardedClassifier


def announce(
    settings: ModelSettings, data: DataSet, model: LiftModel, ui: Ui, only: Literal["classifier"] | None = None
) -> None:
    """Tell what will be trained, and on which images; ``only`` where not all that can trains."""
    counts = data.train.class_counts()
    described = describe_model(settings, model)
    ui.say(f"{data.name}: {data.told_images()}, {len(counts)} classes of {counts.max()} to {counts.min()} images")
    rank = f" of rank {described['rank']}" if "adaptformer" in settings.tuner else ""
    ui.say(
        f"{settings.model}: {' + '.join(settings.tuner)}{rank} trains {described['tuner_parameters']:,} parameters "
        f"({100 * described['tuner_share']:.2f} % of the backbone), the {settings.classifier} classifier "
        f"{described['head_parameters']:,}{'; the classifier alone is trained further' if only else ''}"
    )


def announce_machine(device: torch.device, amp: Amp, backend: tuple[str, str], ui: Ui) -> None:
    """Tell what computes, and which backend loads the images, and why."""
    threads, (name, why) = torch.get_num_threads(), backend
    ui.say(f"{device} in {dtype_name(amp.dtype)} ({amp.why}), {threads} threads; images by {name} ({why})")
    if device.type == "cuda" and (reason := fastlift_kernels.available()["triton_reason"]):
        ui.say(f"the fused operations run as plain PyTorch on the GPU: {reason}")


def describe_data(data: DataSet, groups: GroupSettings) -> dict[str, Any]:
    """What ``data.json`` holds of a data set."""
    return {
        "name": data.name,
        "classes": len(data.class_names),
        **{f"{split}_images": len(index) for split, index in data.splits.items()},
        "class_names": list(data.class_names),
        "class_counts": data.train.class_counts().tolist(),
        "group_counts": data.group_counts.tolist(),
        "group_boundaries": list(groups.group_boundaries),
        "fingerprints": {split: index.fingerprint for split, index in data.splits.items()},
        **({"notes": list(data.notes)} if data.notes else {}),
    }


def describe_model(settings: ModelSettings, model: LiftModel) -> dict[str, Any]:
    """What ``results.json`` holds of a model: its name, its tuner and sizes, and how many parameters train."""
    tuned, share = tuner_size(model.towers, model.tuner_parameters)
    if isinstance(model.classifier, ShardedClassifier):
        head = model.classifier.numbers
    else:
        head = sum(parameter.numel() for parameter in model.head_parameters.values())
    return {
        "name": settings.model,
        "tuner": list(settings.tuner),
        "rank": model.tuner_settings.rank,
        "layers": list(model.tuner_settings.values()["layers"]),
        "tuner_parameters": tuned,
        "tuner_share": share,
        "head_parameters": head,
        "tuned_parameters": tuned + head,
        "image_size": model.preprocessing.image_size,
        "backbone_fingerprint": model.backbone_fingerprint,
    }


def results_of(
    config: Config,
    data: DataSet,
    model: LiftModel,
    fit: Fit | None,
    evaluation: Evaluation,
    raw: Evaluation | None,
    device: torch.device,
) -> dict[str, Any]:
    """What ``results.json`` holds; times in seconds. ``raw`` is of what trained, where ``evaluation`` is of its average."""
    metrics = evaluation.metrics.to_dict()
    timing: dict[str, float] = {"evaluate_s": evaluation.seconds + (0.0 if raw is None else raw.seconds)}
    processes: list[dict[str, Any]] = []
    if fit is not None:
        timing["train_s"] = fit.elapsed
        if fit.validation is not None:
            timing["validate_s"] = sum(event["evaluate_s"] for event in fit.validation.standing.found)
        # No images where a run that was trained already is only evaluated.
        if fit.span is not None and fit.span.images_per_s:
            timing["images_per_s"], timing["data_wait_share"] = fit.span.images_per_s, fit.span.share
            processes = fit.pace.by_process(fit.span)
    name = config.run.ensembling_name
    return {
        "recipe": config.recipe,
        "epochs": fit.epoch + (fit.step > 0) if fit else config.training.epochs,  # begun; fewer where it ended early
        "steps": fit.global_step if fit else 0,
        **({"plan": [list(part) for part in fit.plan]} if fit and len(fit.plan) > 1 else {}),
        "model": describe_model(config.model, model),
        "data": describe_data(data, config.data),
        "metrics": metrics,
        "evaluations": {name: metrics, **({} if raw is None else {f"{name}{RAW}": raw.metrics.to_dict()})},
        **({} if raw is None else {"weights": "ema"}),
        "timing": timing,
        **({"processes": processes} if processes else {}),
        "machine": describe_machine(device),
        "versions": versions(),
    }
