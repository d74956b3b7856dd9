"""``fastlift bench data``: this machine's numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

from fastlift.commands.data import Source
from fastlift.commands.parsing import parse
from fastlift.naming import one_of

ACTIONS = {
    "data": "images/s, CPU time and memory of every way to make training views, and what limits them",
}


@dataclass(frozen=True)
class BenchData:
    """Measure ways to make training views: torchvision with PIL, torchvision.io, and fastlift's two executors.

    Without a data set, on drawn JPEG files of ImageNet's sizes.
    """

    source: Source = field(default_factory=lambda: Source(dataset="generated"))
    image_size: int = 224
    """Pixels of a view."""
    images: int = 512
    """Pictures a round."""
    rounds: int = 5
    """Timed rounds; the ways alternate within each."""
    workers: tuple[int, ...] = ()
    """Threads or processes to try (default: the cores of this machine)."""
    json: bool = False
    """Print as JSON."""


def usage() -> str:
    """The text of ``fastlift bench --help``."""
    listed = "\n".join(f"  {name:<6} {what}" for name, what in ACTIONS.items())
    return f"usage: fastlift bench WHAT [options]     fastlift bench WHAT --help tells all options\n\n{listed}"


def run(arguments: list[str]) -> int:
    """Dispatch to a benchmark."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    action = one_of("benchmark", arguments[0], ACTIONS)
    return {"data": _data}[action](arguments[1:])


def _data(arguments: list[str]) -> int:
    command = parse(BenchData, arguments, "bench data")
    from rich.console import Console

    from fastlift.data import bench
    from fastlift.data.catalogue import load_data_set

    index: Any = None
    if command.source.dataset != "generated":
        places = {key: value for key, value in vars(command.source).items() if key != "dataset"}
        index = load_data_set(command.source.dataset, **places).train

    def tell(what: str, done: int, total: int) -> None:
        print(f"{what}: {done} of {total}", file=sys.stderr)

    options = {name: getattr(command, name) for name in ("image_size", "images", "rounds", "workers")}
    found = bench.run(index, progress=tell, **options)
    if command.json:
        print(json.dumps(found.to_dict()))
    else:
        Console().print(found.render())
    return 0
