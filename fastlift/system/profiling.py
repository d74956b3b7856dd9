"""A profile of a few steps, as a trace that Perfetto and TensorBoard open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from fastlift.system.files import write_atomically

SKIPPED, RECORDED = 4, 4


@contextmanager
def profiled(path: Path | None) -> Iterator[Callable[[], None]]:
    """Record a few steps after the first ones into ``path`` (a Chrome trace); call what is yielded after every step.

    With ``path`` None nothing is recorded. A run that is too short for it leaves no trace.
    """
    if path is None:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    plan = schedule(wait=SKIPPED - 1, warmup=1, active=RECORDED, repeat=1)

    def write(recorder: profile) -> None:
        write_atomically(path, lambda part: recorder.export_chrome_trace(str(part)), parents=False)

    with profile(activities=activities, schedule=plan, on_trace_ready=write, record_shapes=True) as recorder:
        yield recorder.step
