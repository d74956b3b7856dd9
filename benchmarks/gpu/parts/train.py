"""A whole run from JPEG files to ``results.json``: by the command line where tyro is there, else by ``fastlift.train``."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.images import image_set, with_each_backend
from benchmarks.gpu.process import python
from benchmarks.gpu.rows import Row
from fastlift.system.files import read_json

NEEDS_S = 20.0
LAST_WORDS = 300


def run(bench: Bench) -> None:
    """With each backend."""
    with_each_backend(bench, NEEDS_S, rows_of)


def rows_of(bench: Bench, backend: str) -> Iterator[Row]:
    """One run of two epochs, and what its own records say."""
    settings = settings_of(bench, backend)
    output = bench.scratch / f"run-{backend}"
    has_tyro = importlib.util.find_spec("tyro") is not None
    began = time.perf_counter()
    (_by_command if has_tyro else _by_function)(settings, output)
    seconds = time.perf_counter() - began
    timing = read_json(output / "results.json")["timing"]
    paces = _paces(output / "metrics.jsonl")
    way = "fastlift train" if has_tyro else "fastlift.train(config), as tyro is not installed"
    yield {
        "name": f"{way}, {backend}",
        "images_per_s": round(timing["images_per_s"], 1),
        "median_of_log_images_per_s": round(statistics.median(paces), 1) if paces else None,
        "data_wait_share": round(timing["data_wait_share"], 4),
        "train_s": round(timing["train_s"], 2),
        "evaluate_s": round(timing["evaluate_s"], 2),
        "whole_s": round(seconds, 2),
        "note": f"whole {seconds:.1f} s, training {timing['train_s']:.1f} s, of which {100 * timing['data_wait_share']:.0f} % "
        f"waited for data, evaluation {timing['evaluate_s']:.1f} s",
    }


def settings_of(bench: Bench, backend: str) -> dict[str, Any]:
    """LIFT's recipe on the drawn images, by flag name."""
    found: dict[str, Any] = {
        "dataset": "list",
        **image_set(bench).settings(),
        "model": bench.sizes.trained_model,
        "pretrained": "random",
        "init": "random",
        "rank": bench.sizes.ranks[0],
        "epochs": 2,
        "batch_size": bench.sizes.batches[1],
        "amp": "bf16",
        "device": bench.device.type,
        "executor": backend,
        "log_steps": 5 if bench.sizes.images > 1000 else 1,
    }
    return found if bench.sizes.image_size is None else found | {"image_size": bench.sizes.image_size}


def _by_command(settings: dict[str, Any], output: Path) -> None:
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = python("-m", "fastlift", "train", *flags, "--output", str(output))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"fastlift train ended with {done.returncode}: {done.stderr.strip()[-LAST_WORDS:]}")


def _by_function(settings: dict[str, Any], output: Path) -> None:
    import fastlift

    fastlift.train(fastlift.recipes.lift(**settings), output=output)


def _paces(log: Path) -> list[float]:
    """images/s of the log's lines, without the first, which holds the warm-up."""
    events = [json.loads(told) for told in log.read_text(encoding="utf-8").splitlines()]
    return [event["images_per_s"] for event in events if event.get("event") == "step"][1:]
