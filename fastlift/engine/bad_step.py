"""What a run says when a step is not finite: which one, with which images, and how to go on."""

from __future__ import annotations

import shlex
from pathlib import Path

from fastlift.data.sampling.stream import Stream
from fastlift.runs.names import resumed_as
from fastlift.system import launcher

_SHOWN = 5


def told(number: int, epoch: int, learning_rate: float, images: tuple[str, ...]) -> str:
    """What was not finite: the step after ``number`` others, its epoch (from 0), its images in all processes."""
    shown = ", ".join(images[:_SHOWN])
    more = f" and {len(images) - _SHOWN} more (metrics.jsonl names them)" if len(images) > _SHOWN else ""
    return (
        f"loss or gradients are not finite at step {number + 1} (epoch {epoch + 1}, learning rate {learning_rate:g}). "
        f"Its images: {shown}{more}"
    )


def images_of(stream: Stream, epoch: int, step: int) -> tuple[str, ...]:
    """Names of the images of one training step, in all processes."""
    rows = stream.samples_of(stream.whole(stream.order(epoch), step))
    return tuple(stream.index.label_of(int(row)) for row in rows)


def going_on(run: Path, saved: Path | None) -> str:
    """How to go on from the state before a bad step, which is saved."""
    skip = f"{launcher.command()} train --resume --output {shlex.quote(str(resumed_as(run)))} --on-nonfinite skip"
    state = "Nothing was trained before it" if saved is None else f"The state before it is {saved.name}"
    return (
        f"{state}; to leave such steps out, go on with: {skip}. Often a lower --lr, --amp fp32 or other images "
        "help better, in a new run"
    )


def starting_again(tensor: str, last: Path | None) -> str:
    """What to do where an update before has spoilt what trains, so that no step can be finite any more."""
    kept = "there is no checkpoint before that" if last is None else f"the last good checkpoint is {last}"
    return (
        f"What trains is not finite ({tensor}), since the updates before grew too large, and is not saved; {kept}, and its "
        "steps would be taken again: start a new run with a lower --lr, or with --amp fp32"
    )
