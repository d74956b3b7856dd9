"""``python -m benchmarks.scaling [WHAT ...]``: 1, 2 and 4 processes on this machine, to ``benchmarks/results/scaling.json``.

Each measurement adds its part, with machine and versions, to what is there. ``page`` writes docs/scaling.md from it.
"""

from __future__ import annotations

import argparse
import json
import os

from benchmarks.documents import RESULTS
from benchmarks.scaling import measured
from fastlift.system.device import versions
from fastlift.system.files import write_json
from fastlift.system.machine import cpus, processor_name

FILE = RESULTS / "scaling.json"
PARTS = {"epoch": measured.epochs, "step": measured.steps, "buffer": measured.buffers}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*PARTS, []], help="parts to measure; default: all")
    parser.add_argument("--rounds", type=int, default=40, help="alternated rounds; of epochs, a tenth")
    options = parser.parse_args()
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name in options.what or PARTS:
        load = os.getloadavg()[0]
        part = PARTS[name](max(options.rounds // 10, 1) if name == "epoch" else options.rounds)
        machine = {"cores": cpus(), "processor": processor_name(), "versions": versions()}
        loads = {"load_average": [load, os.getloadavg()[0]]}
        found[name] = {"machine": machine, **loads, "processes": part}
        write_json(FILE, found)


if __name__ == "__main__":
    main()
