"""Which data set flags mean, named or not: read before the other flags, whose defaults depend on it."""

from __future__ import annotations

import argparse

from fastlift.data.datasets.catalogue import data_set_meant


def dataset_meant(arguments: list[str]) -> str:
    """The data set that flags name, or whose places they give; see ``data_set_meant``."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("dataset", "data_root", "train_list"):
        early.add_argument(f"--{name.replace('_', '-')}", f"--{name}", dest=name)
    try:
        known, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:  # a flag without its value: the parser of all flags tells
        return data_set_meant(None, None, None)
    return data_set_meant(known.dataset, known.data_root, known.train_list)
