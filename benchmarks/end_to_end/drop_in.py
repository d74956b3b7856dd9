"""add_adapters on other libraries' ViTs against the same model with plain AdaptFormer modules: step time and memory.

    python benchmarks/end_to_end/drop_in.py --model timm transformers --mode eager compiled --rounds 7

Both variants train the same parameters with the same optimiser; rounds alternate in one process, and every step's time is
printed and kept. Saved activations are counted by autograd's own hooks: bytes of distinct tensors kept for backward, without
parameters. Writes one JSON file with the raw times, the ratio of medians and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastlift
from fastlift.interop.adapters.towers import find_tower
from fastlift.system.device import describe_machine, versions

CLASSES, RANK = 1000, 32


class PlainAdaptFormer(nn.Module):
    """The adapter as one writes it in PyTorch's own modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, RANK), nn.Linear(RANK, width)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, t: Tensor) -> Tensor:
        return self.scale * self.up(F.relu(self.down(self.ln(t))))


class PlainBlock(nn.Module):
    """A block of timm or transformers with the adapter beside its MLP."""

    def __init__(self, block: Any, family: Any, width: int) -> None:
        super().__init__()
        self.block, self.family, self.adapter = block, family, PlainAdaptFormer(width)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        t = self.family.attend(self.block, x, *args, **kwargs)
        normed = getattr(self.block, self.family.norm)(t)
        return t + self.family.finish(self.block, normed) + self.adapter(t)


def base_model(kind: str, size: int) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor]]:
    """A ViT-B/16 with random weights, and the way from images to logits [B, C]."""
    torch.manual_seed(0)
    if kind == "timm":
        import timm

        model = timm.create_model("vit_base_patch16_224", img_size=size, num_classes=CLASSES)
        return model, lambda model, x: model(x)
    import transformers

    if kind == "transformers":
        config = transformers.ViTConfig(image_size=size, num_labels=CLASSES)
        return transformers.ViTForImageClassification(config), lambda model, x: model(x).logits
    vision = transformers.CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=size,
        patch_size=16,
    )
    model = transformers.CLIPVisionModel(vision)
    return model, lambda model, x: model(x).pooler_output


def variant(kind: str, fused: bool, size: int) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor]]:
    """A model with adapters, ours or as plain modules, and how it is called."""
    model, call = base_model(kind, size)
    if fused:
        fastlift.add_adapters(model, rank=RANK)
    else:
        model.requires_grad_(False)
        tower = find_tower(model)
        blocks = model.get_submodule(tower.path)
        for i, block in enumerate(tower.blocks):
            blocks[i] = PlainBlock(block, tower.family, tower.width)
    return model.train(), call


class Variant:
    """One training step of a variant, timed."""

    def __init__(self, kind: str, fused: bool, mode: str, batch: int, size: int) -> None:
        self.model, call = variant(kind, fused, size)
        self.call = (
            torch.compile(lambda x: call(self.model, x)) if mode == "compiled" else lambda x: call(self.model, x)
        )
        self.optimiser = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
        self.images = torch.randn(batch, 3, size, size)
        self.labels = torch.arange(batch)

    def step(self) -> float:
        """Seconds of forward, backward and update."""
        start = time.perf_counter()
        F.cross_entropy(self.call(self.images), self.labels).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return time.perf_counter() - start

    def saved_mib(self) -> float:
        """MiB kept for backward by one forward pass."""
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = F.cross_entropy(self.call(self.images), self.labels)
        loss.backward()
        self.optimiser.zero_grad()
        return sum(kept.values()) / 2**20


def compare(kind: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """Both variants of a model, timed in turn."""
    variants = {name: Variant(kind, name == "fastlift", mode, args.batch, args.size) for name in ("plain", "fastlift")}
    saved = {name: v.saved_mib() for name, v in variants.items()} if mode == "eager" else {}
    for v in variants.values():
        v.step()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, v in variants.items():
            seconds[name].append(v.step())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    pairs = [p / f for p, f in zip(seconds["plain"], seconds["fastlift"], strict=True)]
    result = {
        "model": f"{kind} ViT-B/16",
        "mode": mode,
        "batch": args.batch,
        "image_size": args.size,
        "seconds": seconds,
        "speedup_of_medians": medians["plain"] / medians["fastlift"],
        "speedup_of_minima": min(seconds["plain"]) / min(seconds["fastlift"]),
        "speedup_pairs_median": statistics.median(pairs),
        "saved_mib": saved,
        "saved_ratio": saved["fastlift"] / saved["plain"] if saved else None,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps({key: value for key, value in result.items() if key != "seconds"}), flush=True)
    return result


def main() -> None:
    """Measure what is asked for, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="+", choices=("timm", "transformers", "clip"), default=["timm", "transformers"]
    )
    parser.add_argument("--mode", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/drop_in.json"))
    args = parser.parse_args()
    results = [compare(kind, mode, args) for kind in args.model for mode in args.mode]
    described = {"machine": describe_machine(torch.device("cpu")), "versions": versions(), "results": results}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    main()
