"""The dtype that a backbone computes in; on a CPU the faster of fp32 and bf16, as measured at the model's shapes.

A processor's flags do not tell which is faster: with AVX-512 BF16 alone bf16 products can be slower than fp32 ones, with
AMX several times as fast. A block of the model's widths runs forward and backward in both, in turn, so that attention,
norms and casts count too. What is found is kept in the cache folder, and so the same for every later run on the same
processor, with the same threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.layers import LayerNorm, Linear
from fastlift.models.resnet import ResNet
from fastlift.models.vit import QKV, Block, VisionTransformer
from fastlift.settings import Settings
from fastlift.system.files import cache_folder, read_json, write_json
from fastlift.system.machine import processor_name

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MARGIN = 1.1  # bf16 has to be so many times as fast: at less, its rounding buys nothing, and noise would decide
WORK = 4e9  # FLOP of one timed step: tens of milliseconds
ROUNDS = 7
MOST_SIDE = 32  # of the grid that is measured: more tokens change no rate, and this runs before memory is checked
SECONDS = 0.5  # after which three rounds are enough
FORMAT = 1


@dataclass(frozen=True)
class Amp:
    """A compute dtype, and why it is the one."""

    dtype: torch.dtype
    why: str


@dataclass(frozen=True)
class Shape:
    """What is multiplied: ``images`` of ``tokens`` tokens in a block (``heads`` 0: pixels in a convolution)."""

    images: int
    tokens: int
    width: int
    hidden: int
    heads: int

    @property
    def flop(self) -> float:
        """Of a step: products forward, and as many backward for the gradient of the input."""
        rows = self.images * self.tokens
        if not self.heads:
            return 2 * 2 * 9 * rows * self.width * self.hidden
        products = 2 * rows * self.width * (4 * self.width + 2 * self.hidden)
        return 2 * (products + 4 * self.images * self.tokens**2 * self.width)


VIT_B_16 = Shape(images=1, tokens=197, width=768, hidden=3072, heads=12)


@dataclass(frozen=True)
class Speeds:
    """GFLOP/s in each dtype, and how many times as fast as fp32 bf16 is, the median over alternated rounds."""

    fp32: float
    bf16: float
    ratio: float

    @property
    def faster(self) -> torch.dtype:
        """bf16 where it is faster by more than noise."""
        return torch.bfloat16 if self.ratio >= MARGIN else torch.float32

    def __str__(self) -> str:
        return f"a block runs at {self.fp32:,.0f} GFLOP/s in fp32, {self.bf16:,.0f} in bf16"


@dataclass(frozen=True)
class PrecisionSettings(Settings):
    """The compute dtype."""

    amp: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute dtype of the backbone. 'auto': bf16 on GPUs that multiply it, else fp16; on CPUs the faster of bf16 and fp32,
    as measured at the model's shapes."""


def resolve_amp(name: str, device: torch.device, shape: Shape | None = None, *, keep: bool = True) -> Amp:
    """``auto``: bf16 on GPUs of capability 8 and newer, fp16 on older ones; on CPUs bf16 where it is measured to be faster.

    Args:
        shape: what the model multiplies; on a CPU ``auto`` is fp32 without it.
        keep: what is measured goes to the cache folder.

    Raises:
        UserError: bf16 on a GPU without it.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        why = "GPU of capability {}.{}; bf16 from 8.0 on, fp16 below".format(*capability)
        if name == "auto":
            return Amp(torch.bfloat16 if capability >= (8, 0) else torch.float16, why)
        if name == "bf16" and capability < (8, 0):
            raise UserError(
                "amp bf16: this GPU (capability {}.{}) has no bf16 units, 8.0 and newer have; use --amp fp16, or auto, "
                "which takes it here".format(*capability)
            )
    elif name == "auto":
        if shape is None:
            return Amp(torch.float32, "nothing is known of what is multiplied")
        found = speeds(shape, keep)
        return Amp(found.faster, str(found))
    return Amp(DTYPES[name], "asked for")


def dtype_name(dtype: torch.dtype) -> str:
    """The flag's name of a dtype."""
    return next(name for name, known in DTYPES.items() if known is dtype)


def shape_of(vit: VisionTransformer | ResNet, images: int) -> Shape:
    """The shape of a tower's block, with as many of the images at a time as make a step of some milliseconds."""
    if isinstance(vit, ResNet):  # the second of four stages: an eighth of the image's side
        side, width = min(max(1, vit.image_size[0] // 8), MOST_SIDE), max(8, vit.width // 8)
        one = Shape(1, side**2, width, width, 0)
    else:
        one = Shape(1, min(vit.sequence_length, MOST_SIDE**2), vit.width, vit.block(0).mlp_width, vit.block(0).heads)
    return replace(one, images=max(1, min(images, round(WORK / one.flop))))


def speeds(shape: Shape, keep: bool = True) -> Speeds:
    """What was measured before on this processor with these threads, else what is measured, and with ``keep`` kept, now."""
    machine = {"processor": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    key = {"format": FORMAT, **machine, **asdict(shape)}
    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
    path = cache_folder() / "speeds" / f"{name}.json"
    with contextlib.suppress(UserError, KeyError):  # not there yet, or damaged
        found = read_json(path)
        numbers = [found[name] for name in ("fp32", "bf16", "ratio")]
        if found["key"] == key and all(isinstance(one, float) and 0 < one < math.inf for one in numbers):
            return Speeds(*numbers)
    measured = measure(shape)
    if keep:
        with contextlib.suppress(OSError):  # then the next run measures again
            write_json(path, {"key": key, **asdict(measured)})
    return measured


def measure(shape: Shape) -> Speeds:
    """Time steps in both dtypes, in turn, the first of a round changing; in about half a second."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        steps = {dtype: _step(shape, dtype) for dtype in (torch.float32, torch.bfloat16)}
        times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in steps}
        for step in steps.values():  # memory is allocated, weights are packed
            step()
        started = time.perf_counter()
        for number in range(ROUNDS):
            for dtype in sorted(steps, key=str, reverse=bool(number % 2)):
                begun = time.perf_counter()
                steps[dtype]()
                times[dtype].append(time.perf_counter() - begun)
            if number >= 2 and time.perf_counter() - started > SECONDS:
                break
    return summarise(times[torch.float32], times[torch.bfloat16], shape.flop)


def summarise(fp32: list[float], bf16: list[float], flop: float) -> Speeds:
    """From the seconds of each round; the ratio is taken within rounds, since other work comes and goes."""
    ratio = statistics.median(one / other for one, other in zip(fp32, bf16, strict=True))
    return Speeds(flop / statistics.median(fp32) / 1e9, flop / statistics.median(bf16) / 1e9, ratio)


def _step(shape: Shape, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of frozen weights in ``dtype``."""
    run, tokens = _frozen(shape, dtype)
    tokens.requires_grad_()
    direction = torch.ones_like(tokens)

    def step() -> None:
        run(tokens).backward(direction)
        tokens.grad = None

    return step


def _frozen(shape: Shape, dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """What is run, and its input."""
    if not shape.heads:
        side = math.isqrt(shape.tokens)
        weight = torch.randn(shape.hidden, shape.width, 3, 3).to(dtype)
        images = torch.randn(shape.images, shape.width, side, side).to(dtype)
        return lambda x: F.conv2d(x, weight, padding=1), images
    block = Block(
        norm_1=LayerNorm(shape.width),
        qkv=QKV(shape.width, 3 * shape.width),
        out=Linear(shape.width, shape.width),
        norm_2=LayerNorm(shape.width),
        mlp_in=Linear(shape.width, shape.hidden),
        mlp_out=Linear(shape.hidden, shape.width),
        activation=F.gelu,
        heads=shape.heads,
    ).requires_grad_(False)
    return block.to(dtype), torch.randn(shape.images, shape.tokens, shape.width).to(dtype)
