"""fastlift: long-tailed image classification by lightweight fine-tuning of foundation models (LIFT, LIFT+).

Importing this package loads neither torch nor DALI nor Triton; the names below load what they need on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if (
    TYPE_CHECKING
):  # what type checkers and editors read; at run time the table below gives the same, when it is asked for
    from fastlift import data as data
    from fastlift import recipes as recipes
    from fastlift.config import Config as Config
    from fastlift.engine.load_run import load_run as load_run
    from fastlift.engine.train import train as train
    from fastlift.errors import UserError as UserError
    from fastlift.interop import lift_checkpoints as compat
    from fastlift.interop.adapters import add_adapters as add_adapters
    from fastlift.interop.adapters import load_adapters as load_adapters
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
    from fastlift.models.tuners.adaptformer import AdaptFormer as AdaptFormer
    from fastlift.training import classifier_init as starts
    from fastlift.training import losses as losses

# Module -> the public names that it defines; "." stands for the module itself.
_HOMES = {
    "config": ("Config",),
    "engine.load_run": ("load_run",),
    "engine.train": ("train",),
    "errors": ("UserError",),
    "interop.adapters": ("add_adapters", "load_adapters", "remove_adapters", "save_adapters", "tuner_parameters"),
    "interop.modules": (
        "BalancedSoftmaxLoss",
        "ClassBalancedCrossEntropy",
        "FocalLoss",
        "FusedCosineLoss",
        "InverseFrequencyCrossEntropy",
        "LADELoss",
        "LDAMLoss",
        "LogitAdjustedCrossEntropy",
    ),
    "models.classifiers": ("CosineClassifier",),
    "models.create": ("create_model",),
    "models.tuners.adaptformer": ("AdaptFormer",),
}
_MODULES = {
    "compat": "interop.lift_checkpoints",
    "data": "data",
    "losses": "training.losses",
    "recipes": "recipes",
    "starts": "training.classifier_init",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptFormer",
    "BalancedSoftmaxLoss",
    "ClassBalancedCrossEntropy",
    "Config",
    "CosineClassifier",
    "FocalLoss",
    "FusedCosineLoss",
    "InverseFrequencyCrossEntropy",
    "LADELoss",
    "LDAMLoss",
    "LogitAdjustedCrossEntropy",
    "UserError",
    "__version__",
    "add_adapters",
    "compat",
    "create_model",
    "data",
    "load_adapters",
    "load_run",
    "losses",
    "recipes",
    "remove_adapters",
    "save_adapters",
    "starts",
    "train",
    "tuner_parameters",
]

if not TYPE_CHECKING:  # else every misspelt name would pass a type checker

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"fastlift.{_MODULES[name]}")
        if name in _HOME_OF:
            return getattr(import_module(f"fastlift.{_HOME_OF[name]}"), name)
        raise AttributeError(f"module 'fastlift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
