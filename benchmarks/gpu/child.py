"""A part's process: ``python -m benchmarks.gpu.child PART FOLDER SCRATCH SECONDS [rehearse]``, started by the command alone."""

from __future__ import annotations

import signal
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.plan import part_named, rows_file
from fastlift.system.files import read_json, write_json

BROKEN = 75  # exit status: another process may go on where this one stopped
CARD = "card"
LATE_S = 15.0


def card_file(scratch: Path) -> Path:
    """Where the first process of a run leaves what it found of the card."""
    return scratch / "card.json"


def main(name: str, folder: Path, scratch: Path, seconds: float, is_rehearsal: bool) -> int:
    """Run a part, or ask the card."""
    ends_at = time.monotonic() + seconds
    # The parent ends this process at its limit. Should the parent be gone, the kernel does.
    signal.alarm(int(seconds + LATE_S) + 1)
    warnings.filterwarnings("ignore")
    import torch

    from benchmarks.gpu.bench import Bench, Broken
    from benchmarks.gpu.clock import EventClock, HostClock
    from benchmarks.gpu.machine import Rates, describe
    from benchmarks.gpu.rows import Rows
    from benchmarks.gpu.sizes import FULL, TOY

    sizes = TOY if is_rehearsal else FULL
    torch.manual_seed(0)
    if name == CARD:
        try:
            write_json(card_file(scratch), describe(sizes, is_rehearsal))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    head = read_json(card_file(scratch))
    clock = HostClock() if is_rehearsal else EventClock()
    rows = Rows(rows_file(folder, part_named(name)), head)
    bench = Bench(name, sizes, is_rehearsal, clock, Rates(**head["rates"]), rows, scratch, ends_at)
    try:
        import_module(f"benchmarks.gpu.parts.{name}").run(bench)
    except Broken as error:
        print(f"{name}: the device answers no more ({error})", file=sys.stderr)
        return BROKEN
    return 0


if __name__ == "__main__":
    part, folder, scratch, seconds, *rest = sys.argv[1:]
    sys.exit(main(part, Path(folder), Path(scratch), float(seconds), rest == ["rehearse"]))
