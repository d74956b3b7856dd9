"""Whole commands in processes of their own: start-up, and training on the embedded data set from nothing."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

COMMAND = str(Path(sys.executable).parent / "fastlift")
HEAVY = ("torch", "nvidia", "triton")
IMPORT = f"import sys, fastlift; print([name for name in {HEAVY!r} if name in sys.modules])"


def start_up(rounds: int) -> dict[str, Any]:
    """Seconds of ``fastlift --help`` and of ``import fastlift``, in fresh processes, and what heavy is loaded by it."""
    help_s, import_s, loaded = [], [], ""
    for _ in range(rounds):
        help_s.append(_run([COMMAND, "--help"])[0])
        seconds, loaded = _run([sys.executable, "-c", IMPORT])
        import_s.append(seconds)
    bare = statistics.median(_run([sys.executable, "-c", "pass"])[0] for _ in range(rounds))
    return {
        "help_s": statistics.median(help_s),
        "import_s": statistics.median(import_s) - bare,
        "python_alone_s": bare,
        "loaded_by_import": loaded.strip(),
    }


def default_training() -> dict[str, Any]:
    """Seconds and peak memory of ``fastlift train`` with an empty cache folder: drawing the set, training, evaluation."""
    found = {}
    with TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache", "FASTLIFT_CACHE": f"{folder}/cache"}
        for use in ("first", "second"):
            found[f"{use}_s"] = _run([COMMAND, "train", "--output", f"{folder}/{use}"], environment)[0]
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return found


def _run(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return time.perf_counter() - start, done.stdout
