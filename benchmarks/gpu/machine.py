"""The card: its name, driver and clocks, versions, and its own rates, measured in the run whose figures they divide."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.documents import ROOT
from benchmarks.gpu.clock import Clock, clock_of
from benchmarks.gpu.nvidia import nvidia_smi
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.sizes import Sizes
from fastlift.system.machine import cpus, processor_name

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "timm",
    "transformers",
    "numpy",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)
CAPABILITY_BF16 = (8, 0)


@dataclass(frozen=True)
class Rates:
    """The card's own rates: medians.

    Attributes:
        products_tflops: of products by name: "square", and the ViT's "qkv", "mlp_in", "mlp_out" at the largest batch.
        vit_tflops: of the ViT's three together.
        copy_tb_per_s: of a copy, bytes read and written.
        products_in: the products' dtype: bf16, but fp16 on cards without it.
    """

    products_tflops: dict[str, float]
    vit_tflops: float
    copy_tb_per_s: float
    products_in: str = "bfloat16"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_rates(clock: Clock, sizes: Sizes) -> Rates:
    """Multiply and copy."""
    vit, rows = sizes.vit, sizes.batches[0] * sizes.vit.tokens
    shapes = {
        "square": (sizes.square, sizes.square, sizes.square),
        "qkv": (rows, vit.width, 3 * vit.width),
        "mlp_in": (rows, vit.width, vit.mlp),
        "mlp_out": (rows, vit.mlp, vit.width),
    }
    has_bf16 = clock.device.type == "cpu" or torch.cuda.get_device_capability(clock.device) >= CAPABILITY_BF16
    dtype = torch.bfloat16 if has_bf16 else torch.float16
    products = {}
    for name, (m, k, n) in shapes.items():
        x = torch.randn(m, k, device=clock.device, dtype=dtype)
        weight = torch.randn(n, k, device=clock.device, dtype=dtype)
        times = alternated(clock, {name: partial(torch.nn.functional.linear, x, weight)}, 10, calls=5)
        products[name] = (2.0 * m * k * n, times[name].median)
    source = torch.zeros(sizes.copied // 4, device=clock.device)
    target = torch.empty_like(source)
    copied = alternated(clock, {"copy": lambda: target.copy_(source)}, 10, calls=5)["copy"].median
    of_vit = [products[name] for name in ("qkv", "mlp_in", "mlp_out")]
    return Rates(
        products_tflops={name: _short(flop / ms / 1e9) for name, (flop, ms) in products.items()},
        vit_tflops=_short(sum(flop for flop, _ in of_vit) / sum(ms for _, ms in of_vit) / 1e9),
        copy_tb_per_s=_short(2 * sizes.copied / copied / 1e9),
        products_in=str(dtype).removeprefix("torch."),
    )


def _short(rate: float) -> float:
    """Five digits that count: a rehearsal's rates on a busy machine are small, and divide."""
    return float(f"{rate:.5g}")


def describe(sizes: Sizes, is_rehearsal: bool) -> dict[str, Any]:
    """The head of every file of a run: card, versions, sources, rates.

    Raises:
        RuntimeError: no GPU is visible to PyTorch, and this is no rehearsal.
    """
    if not is_rehearsal and not torch.cuda.is_available():
        raise RuntimeError("no GPU is visible to PyTorch here: --rehearse runs everything at toy size on the CPU")
    device = torch.device("cpu" if is_rehearsal else "cuda")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
        }
    else:
        card = {"name": f"none: a rehearsal on {processor_name()}"}
    rates = measure_rates(clock_of(device), sizes)
    return {
        "card": card["name"],
        "is_rehearsal": is_rehearsal,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "device": card,
        "nvidia_smi": nvidia_smi(),  # right after work: an idle card's clocks say nothing
        "host": {"processor": processor_name(), "cores": cpus(), "system": platform.platform()},
        "versions": versions(),
        "commit": commit(),
        "sources": sources(),
        "rates": rates.to_dict(),
    }


def versions() -> dict[str, str]:
    """Versions of what computes, and of what it was built for."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    found["cudnn"] = str(torch.backends.cudnn.version())
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout, with "+" where files differ from it; "unknown" without git."""
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def sources(root: Path = ROOT) -> str:
    """A digest of the code that was measured, which tells it apart where a copy has no commit."""
    digest = hashlib.sha256()
    for folder in ("fastlift", "kernels", "benchmarks"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
