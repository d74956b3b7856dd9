"""From files to batches: catalogue -> index -> order and views -> executor. Importing this loads neither torch nor DALI.

``build_loader`` yields what any PyTorch loop takes: images, labels, indices.
"""

from importlib import import_module
from typing import Any

# name -> module that defines it; loaded on first use, as in ``fastlift``
_HOMES = {
    "EvalViews": "sampling.crops",
    "TrainViews": "sampling.crops",
    "build_loader": "loading.loader",
    "load_data_set": "datasets.catalogue",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastlift.data' has no attribute {name!r}")
    return getattr(import_module(f"fastlift.data.{_HOMES[name]}"), name)
