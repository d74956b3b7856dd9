"""From files to batches: index -> order and crop boxes -> backend. Importing this loads neither torch nor DALI.

``load_data_set`` gives a set's two splits, ``build_loader`` batches that any PyTorch loop takes: images, labels, indices. The
parts, each of which imports from those before it:

- ``index/``: one split as columns (paths, labels, sizes), read from lists and headers, cached
- ``sampling/``: which sample comes when, and which part of it is seen, as pure functions of (seed, epoch, sample)
- ``loading/``: threads or DALI decode, crop and collate
- ``datasets/``: the sets by name, one file each, and packs of them (a few tar files)
- ``image_sources``: images by the files, folders, patterns, lists and shards that people name, to be predicted
- ``from_python``, ``map_style``, ``huggingface``: data sets from the objects that Python programs have
- ``pack``, ``inspection/``: make a pack; tell what is wrong with a set, and what it looks like

Imports ``errors``, ``settings`` and ``system``. Imported by ``models``, ``training``, ``evaluation``, ``config``, ``recipes``, ``runs``,
``interop``, ``reporting``, ``engine``, ``soups``, ``serving``, ``bench``, ``doctor`` and ``commands``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers read; at run time the table below gives the same, when it is asked for
    from fastlift.data.datasets.catalogue import load_data_set as load_data_set
    from fastlift.data.from_python import from_dataframe as from_dataframe
    from fastlift.data.from_python import from_dataset as from_dataset
    from fastlift.data.from_python import from_folder as from_folder
    from fastlift.data.from_python import from_huggingface as from_huggingface
    from fastlift.data.from_python import from_imagefolder as from_imagefolder
    from fastlift.data.from_python import from_table as from_table
    from fastlift.data.from_python import from_webdataset as from_webdataset
    from fastlift.data.loading.loader import build_loader as build_loader
    from fastlift.data.sampling.crops import EvalCrops as EvalViews
    from fastlift.data.sampling.crops import TrainCrops as TrainViews

# Public name -> module, and its name there; loaded on first use.
_HOMES = {
    "EvalViews": ("sampling.crops", "EvalCrops"),
    "TrainViews": ("sampling.crops", "TrainCrops"),
    "build_loader": ("loading.loader", "build_loader"),
    **{
        f"from_{what}": ("from_python", f"from_{what}")
        for what in ("dataframe", "dataset", "folder", "huggingface", "imagefolder", "table", "webdataset")
    },
    "load_data_set": ("datasets.catalogue", "load_data_set"),
}

__all__ = [
    "EvalViews",
    "TrainViews",
    "build_loader",
    "from_dataframe",
    "from_dataset",
    "from_folder",
    "from_huggingface",
    "from_imagefolder",
    "from_table",
    "from_webdataset",
    "load_data_set",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastlift.data' has no attribute {name!r}")
    module, name_there = _HOMES[name]
    return getattr(import_module(f"fastlift.data.{module}"), name_there)
