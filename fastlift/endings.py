"""How a run ends: what its ``results.json`` and ``data.json`` say."""

from __future__ import annotations

from typing import Any

import torch

from fastlift.config import Config
from fastlift.data.catalogue import DataSet
from fastlift.environment import describe_machine, versions
from fastlift.evaluation import Evaluation, ensembling_name
from fastlift.fit import Fit
from fastlift.models.lift import LiftModel
from fastlift.models.tuners import tuner_size


def describe_data(data: DataSet, config: Config) -> dict[str, Any]:
    """What ``data.json`` holds of a data set."""
    return {
        "name": data.name,
        "classes": len(data.class_names),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "class_names": list(data.class_names),
        "class_counts": data.train.class_counts().tolist(),
        "group_counts": data.group_counts.tolist(),
        "group_boundaries": list(config.data.group_boundaries),
        "fingerprints": {"train": data.train.fingerprint, "test": data.test.fingerprint},
    }


def describe_model(config: Config, model: LiftModel) -> dict[str, Any]:
    size = tuner_size(model.towers, model.tuner_parameters)
    head = sum(parameter.numel() for parameter in model.head_parameters.values())
    return {
        "name": config.model.model,
        "tuner": list(config.model.tuner),
        "rank": model.tuner_settings.rank,
        "layers": list(model.tuner_settings.layers),
        "tuner_parameters": size.parameters,
        "tuner_share": size.share,
        "head_parameters": head,
        "tuned_parameters": size.parameters + head,
        "image_size": model.preprocessing.image_size,
        "backbone_fingerprint": model.backbone_fingerprint,
    }


def results_of(
    config: Config, data: DataSet, model: LiftModel, fit: Fit | None, evaluation: Evaluation, device: torch.device
) -> dict[str, Any]:
    metrics = evaluation.metrics.to_dict()
    timing = {"evaluate_s": evaluation.seconds}
    if fit is not None:
        timing |= {"train_s": fit.elapsed, "images_per_s": fit.images_seen / max(fit.elapsed - fit.seconds, 1e-9)}
    name = ensembling_name(config)
    return {
        "recipe": config.recipe,
        "model": describe_model(config, model),
        "data": describe_data(data, config),
        "metrics": metrics,
        "evaluations": {name: metrics},
        "timing": timing,
        "machine": describe_machine(device),
        "versions": versions(),
    }
