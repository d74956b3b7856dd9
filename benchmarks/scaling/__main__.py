"""``python -m benchmarks.scaling``: 1, 2 and 4 processes on this machine; numbers go to ``benchmarks/results/scaling.json``."""

from __future__ import annotations

import argparse
import os

from benchmarks.documents import RESULTS
from benchmarks.scaling.measured import measure
from fastlift.system.device import versions
from fastlift.system.files import write_json
from fastlift.system.machine import cpus, processor_name


def main() -> None:
    """Measure, and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="alternated rounds of a step and of its sums")
    parser.add_argument("--epochs", type=int, default=3, help="trainings with each number of processes")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    found = measure(options.rounds, options.epochs)
    machine = {"cores": cpus(), "processor": processor_name(), "versions": versions()}
    loads = {"load_average_before": before, "load_average_after": os.getloadavg()[0]}
    write_json(RESULTS / "scaling.json", {"machine": machine, **loads, **found})


if __name__ == "__main__":
    main()
