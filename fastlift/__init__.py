"""fastlift: long-tailed image classification by lightweight fine-tuning of foundation models (LIFT, LIFT+).

Importing this package loads neither torch nor DALI nor Triton; the names below load what they need on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

# name -> module that defines it; empty: the name is a module itself
_HOMES = {
    "AdaptFormer": "models.tuners.adaptformer",
    "BalancedSoftmaxLoss": "modules",
    "ClassBalancedCrossEntropy": "modules",
    "Config": "config",
    "CosineClassifier": "models.classifiers",
    "FocalLoss": "modules",
    "FusedCosineLoss": "modules",
    "InverseFrequencyCrossEntropy": "modules",
    "LADELoss": "modules",
    "LDAMLoss": "modules",
    "LogitAdjustedCrossEntropy": "modules",
    "UserError": "errors",
    "add_adapters": "adapters",
    "compat": "",
    "create_model": "models.lift",
    "data": "",
    "load_adapters": "adapters",
    "load_run": "building",
    "losses": "",
    "recipes": "",
    "remove_adapters": "adapters",
    "save_adapters": "adapters",
    "starts": "",
    "train": "training",
    "tuner_parameters": "adapters",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastlift' has no attribute {name!r}")
    home = _HOMES[name]
    return getattr(import_module(f"fastlift.{home}"), name) if home else import_module(f"fastlift.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
