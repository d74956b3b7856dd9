"""fastlift: long-tailed image classification by lightweight fine-tuning of foundation models (LIFT, LIFT+).

Importing this package loads neither torch nor DALI nor Triton; the names below load what they need on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

# What type checkers and editors read; at run time the table below gives the same, when it is asked for.
if TYPE_CHECKING:
    from fastlift import data as data
    from fastlift import recipes as recipes
    from fastlift.callbacks.callback import Callback as Callback
    from fastlift.config import Config as Config
    from fastlift.engine.advise import advise as advise
    from fastlift.engine.calibrate import calibrate_run as calibrate_run
    from fastlift.engine.evaluate import evaluate_run as evaluate_run
    from fastlift.engine.model import load_run as load_run
    from fastlift.engine.sharing import from_pretrained as from_pretrained
    from fastlift.errors import UserError as UserError
    from fastlift.interop import lift_checkpoints
    from fastlift.interop.adapters import add_adapters as add_adapters
    from fastlift.interop.adapters import load_adapters as load_adapters
    from fastlift.interop.adapters import load_classifier as load_classifier
    from fastlift.interop.adapters import remove_adapters as remove_adapters
    from fastlift.interop.adapters import save_adapters as save_adapters
    from fastlift.interop.adapters import tuner_parameters as tuner_parameters
    from fastlift.interop.modules import BalancedSoftmaxLoss as BalancedSoftmaxLoss
    from fastlift.interop.modules import ClassBalancedCrossEntropy as ClassBalancedCrossEntropy
    from fastlift.interop.modules import FocalLoss as FocalLoss
    from fastlift.interop.modules import FusedCosineLoss as FusedCosineLoss
    from fastlift.interop.modules import InverseFrequencyCrossEntropy as InverseFrequencyCrossEntropy
    from fastlift.interop.modules import LADELoss as LADELoss
    from fastlift.interop.modules import LDAMLoss as LDAMLoss
    from fastlift.interop.modules import LogitAdjustedCrossEntropy as LogitAdjustedCrossEntropy
    from fastlift.models.classifiers import CosineClassifier as CosineClassifier
    from fastlift.models.create import create_model as create_model
    from fastlift.models.prediction.result import Prediction as Prediction
    from fastlift.models.tuners.adapter import AdaptFormer as AdaptFormer
    from fastlift.soups.seeds import train_seeds as train_seeds
    from fastlift.soups.soup import soup as soup
    from fastlift.soups.stages import train as train
    from fastlift.training import classifier_init
    from fastlift.training import losses as losses

    compat, starts = lift_checkpoints, classifier_init

# Public name -> the module that defines it. Where the name is a module itself, that one.
_HOMES = {
    "AdaptFormer": "models.tuners.adapter",
    "BalancedSoftmaxLoss": "interop.modules",
    "Callback": "callbacks.callback",
    "ClassBalancedCrossEntropy": "interop.modules",
    "Config": "config",
    "CosineClassifier": "models.classifiers",
    "FocalLoss": "interop.modules",
    "FusedCosineLoss": "interop.modules",
    "InverseFrequencyCrossEntropy": "interop.modules",
    "LADELoss": "interop.modules",
    "LDAMLoss": "interop.modules",
    "LogitAdjustedCrossEntropy": "interop.modules",
    "Prediction": "models.prediction.result",
    "UserError": "errors",
    "add_adapters": "interop.adapters",
    "advise": "engine.advise",
    "calibrate_run": "engine.calibrate",
    "create_model": "models.create",
    "evaluate_run": "engine.evaluate",
    "from_pretrained": "engine.sharing",
    "load_adapters": "interop.adapters",
    "load_classifier": "interop.adapters",
    "load_run": "engine.model",
    "remove_adapters": "interop.adapters",
    "save_adapters": "interop.adapters",
    "soup": "soups.soup",
    "train": "soups.stages",
    "train_seeds": "soups.seeds",
    "tuner_parameters": "interop.adapters",
}
_MODULES = {
    "compat": "interop.lift_checkpoints",
    "data": "data",
    "losses": "training.losses",
    "recipes": "recipes",
    "starts": "training.classifier_init",
}

__all__ = ["__version__", *sorted({**_HOMES, **_MODULES})]

if not TYPE_CHECKING:  # else every misspelt name would pass a type checker

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"fastlift.{_MODULES[name]}")
        if name in _HOMES:
            return getattr(import_module(f"fastlift.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'fastlift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
