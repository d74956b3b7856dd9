"""A soak: ``python -m tests.torture.soak --seconds 3600`` trains, evaluates and predicts again and again in one process.

Memory, threads and open files must be flat once everything has been used: their medians over the last third of the cycles
are compared with those over the third before it.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .harness import REPOSITORY

ALLOWED_MIB = 8.0  # growth of the resident set between the last two thirds


@dataclass(frozen=True)
class Sample:
    """What the process holds: resident MiB, threads, open files."""

    memory_mib: float
    threads: int
    files: int


def sample() -> Sample:
    """Look at this process."""
    gc.collect()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Sample(int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"]), len(os.listdir("/proc/self/fd")))


def cycle(base: Path, backend: str, number: int) -> None:
    """Train, interrupt nothing, evaluate with five crops, predict, write the page."""
    from fixtures import tiny_recipe

    import fastlift
    from fastlift import cli
    from fastlift.engine.evaluate import evaluate_run

    clip = (base / "tiny_clip.json", base / "tiny_clip.safetensors")
    settings = tiny_recipe(
        clip, base, epochs=2, batch_size=8, checkpoint_steps=3, amp="fp32", executor=backend, seed=number
    )
    run = fastlift.train(settings, output=base / "run", overwrite=True)
    evaluate_run(run.folder, settings={"tte": "fivecrop"})
    assert len(fastlift.load_run(run.folder).predict(base / "test")) == len(list((base / "test").rglob("*.jpg")))
    predict = [
        "predict",
        str(run.folder),
        str(base / "test"),
        "--output",
        str(base / "predictions.jsonl"),
        "--overwrite",
    ]
    assert cli.main(predict) == 0


def main() -> int:
    """Soak until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (default: %(default)s)")
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from fixtures import write_tiny_clip, write_tiny_data

    from fastlift.data.loading.loader import without_dali
    from fastlift.system.device import resolve_device

    backends = ["torchvision"] if without_dali(resolve_device("auto")) else ["torchvision", "dali"]
    base = Path(tempfile.mkdtemp(prefix="fastlift-soak-"))
    write_tiny_clip(base), write_tiny_data(base)
    samples: list[Sample] = []
    began = time.monotonic()
    try:
        while time.monotonic() - began < options.seconds:
            cycle(base, backends[len(samples) % len(backends)], len(samples))
            samples.append(sample())
            if len(samples) % 20 == 1:
                now = samples[-1]
                print(
                    f"{time.monotonic() - began:6.0f} s  cycle {len(samples):4}  {now.memory_mib:7.1f} MiB  "
                    f"{now.threads} threads  {now.files} files",
                    flush=True,
                )
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return verdict(samples)


def verdict(samples: list[Sample]) -> int:
    """Compare the last two thirds; 1 where something grows."""
    third = len(samples) // 3
    if third < 3:
        print(f"{len(samples)} cycles are too few to tell")
        return 1
    before, after = samples[third : 2 * third], samples[-third:]
    growth = {
        what: statistics.median(getattr(s, what) for s in after) - statistics.median(getattr(s, what) for s in before)
        for what in ("memory_mib", "threads", "files")
    }
    grows = growth["memory_mib"] > ALLOWED_MIB or growth["threads"] > 0 or growth["files"] > 0
    print(
        f"{len(samples)} cycles; growth between the last two thirds: {growth['memory_mib']:+.1f} MiB, "
        f"{growth['threads']:+g} threads, {growth['files']:+g} open files: {'it GROWS' if grows else 'flat'}"
    )
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())
