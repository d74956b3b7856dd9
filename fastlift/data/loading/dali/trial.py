"""Whether DALI works here, by trying it; and what its errors mean."""

import functools
import importlib.util
import io
import re
from typing import Literal

import numpy as np
import torch

from fastlift.data.loading.dali.graph import GraphSpec, build_pipeline
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError

# What DALI says where it is no image's fault.
_MACHINES_FAULT = re.compile(r"CUDA (runtime|driver) API error|CUDA allocation failed|out of memory|ALLOCATOR_FAILURE")
_LONGEST = 240


def trouble(device_id: int | None) -> str:
    """Why DALI cannot do its part on a GPU, or by its operators for CPUs (None); empty where it can. Imports it, and tries it."""
    try:
        if importlib.util.find_spec("nvidia.dali") is None:
            return "DALI is not installed"
    except (ImportError, ValueError):
        return "DALI is not installed"
    try:
        import nvidia.dali  # noqa: F401
    except Exception as error:  # a library of it that does not load, a NumPy that it does not know
        return f"DALI is installed but cannot be imported ({error})"
    return trial(device_id)


@functools.cache
def trial(device_id: int | None) -> str:
    """Why DALI cannot make a crop of a tiny JPEG; empty where it can.

    To ask for versions would not do: a DALI of one CUDA imports beside a driver of another, and libraries that it loads when a
    decoder is made may be missing. Takes 0.03 s on a CPU.
    """
    where: Literal["cpu", "gpu"] = "cpu" if device_id is None else "gpu"
    spec = GraphSpec(TrainCrops(8), (0.5,) * 3, (0.5,) * 3, where, half=False)
    corner, size, flip = (np.array([numbers], dtype=np.int32) for numbers in ((0, 0), (8, 8), (0,)))
    given = ([np.frombuffer(black_jpeg(), dtype=np.uint8)], corner, size, flip)
    try:
        pipeline = build_pipeline(spec, lambda info: given, batch_size=1, workers=1, device_id=device_id, prefetch=1)
        pipeline.build()
        (made,) = pipeline.run()
        del made, pipeline
    except Exception as error:
        return f"DALI cannot decode on {'the CPU' if device_id is None else f'cuda:{device_id}'} ({gist(str(error))})"
    return ""


def device_id_of(device: torch.device) -> int | None:
    """The number of a GPU, None for the CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


@functools.cache
def black_jpeg() -> bytes:
    """A JPEG of 8 x 8 black pixels, encoded."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def gist(message: str) -> str:
    """What happened, in a line: without the graph's traceback, the place in DALI's source and the condition that did not hold."""
    lines = [line.strip() for line in message.split("encountered:")[-1].splitlines()]
    lines = [line for line in lines if line] or [message.strip()]
    told = re.sub(r"^(\[[^\]]*\] *)?(Assert on .* failed: )?", "", lines[0])
    if told.endswith(":") and len(lines) > 1:
        told = f"{told} {lines[1]}"
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


def raise_if_machines_fault(error: RuntimeError) -> None:
    """Raise UserError where the GPU has no memory left, or fails: to decode images one by one would not help."""
    if _MACHINES_FAULT.search(str(error)):
        what = "Take a smaller batch, or --executor torchvision, which needs less memory of the GPU"
        raise UserError(f"DALI failed on the GPU: {gist(str(error))}. {what}", exit_code=1) from error
