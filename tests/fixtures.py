"""Small models and data sets that tests train on: made here, from seeds, in a fraction of a second."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fastlift
from fastlift.config import Config
from fastlift.system.progress import Quiet
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

# The reference data is optional: it lies beside a developer's checkout, never inside the repository.
SHARED = Path(os.environ.get("FASTLIFT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
TINY_CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CLASS_NAMES = ("red brick", "green_leaf", "blue sky", "grey cat", "white snow", "black coal")
CLASS_COUNTS = (14, 9, 6, 4, 3, 2)
Files = tuple[Path, Path]  # of a CLIP: its configuration and its weights
COLOURS = ((200, 40, 40), (40, 180, 60), (40, 80, 220), (120, 120, 120), (240, 240, 240), (20, 20, 20))


class Told(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def say(self, message: str) -> None:
        self.lines.append(message)


def write_tiny_clip(folder: Path, seed: int = 0) -> Files:
    """An open_clip configuration and weights with lively random values: (JSON, safetensors)."""
    from open_clip.model import CLIP

    config, weights = folder / "tiny_clip.json", folder / "tiny_clip.safetensors"
    config.write_text(json.dumps(TINY_CONFIG))
    model = CLIP(**TINY_CONFIG)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        fan = tensor.shape[-1] if tensor.dim() > 1 else 10
        is_gain = "ln_" in name and name.endswith("weight")
        state[name] = (1 + 0.1 * noise if is_gain else noise * fan**-0.5).contiguous()
    state["logit_scale"] = torch.tensor(3.0)
    save_file(state, weights)
    return config, weights


def tiny_learner(
    clip: tuple[Path, Path],
    device: str | torch.device = "cpu",
    loss: str = "LA",
    dtype: torch.dtype = torch.float32,
    model: dict[str, Any] | None = None,
    optimizer: OptimizerSettings = OptimizerSettings(lr=0.05),  # noqa: B008 - frozen
    **settings: Any,
) -> Learner:
    """A learner of the tiny CLIP with an AdaptFormer of rank 3, unless ``model`` says otherwise."""
    made = fastlift.create_model(clip[0], pretrained=clip[1], class_names=CLASS_NAMES, **{"rank": 3} | (model or {}))
    made.set_compute_dtype(dtype)
    built = fastlift.losses.build(loss, CLASS_COUNTS).to(device)
    return Learner(made.to(device), built, optimizer, **settings)


def tiny_batch(some: Learner, number: int = 5, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [size, 3, 32, 32] and labels for a learner: the same for each number, whatever the device."""
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    labels = torch.arange(size) % len(CLASS_NAMES)
    return images.to(some.sums.loss.device, some.model.vit.compute_dtype), labels.to(some.sums.loss.device)


def write_tiny_data(folder: Path, tests_a_class: int = 4, seed: int = 0) -> Path:
    """Noisy colour patches as JPEG files with list files: train.txt, test.txt, class_names.txt."""
    rng = np.random.Generator(np.random.Philox(seed))
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for label, (count, colour) in enumerate(zip(CLASS_COUNTS, COLOURS, strict=True)):
        for split, number in (("train", count), ("test", tests_a_class)):
            for i in range(number):
                height, width = rng.integers(36, 60, size=2)
                noise = rng.normal(0, 40, size=(height, width, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                path = folder / split / f"class{label}" / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, quality=90)
                lines[split].append(f"{path.relative_to(folder)} {label}")
    for split, listed in lines.items():
        (folder / f"{split}.txt").write_text("\n".join(listed) + "\n")
    named = [f"class{label} {name}" for label, name in enumerate(CLASS_NAMES)]
    (folder / "class_names.txt").write_text("\n".join(named) + "\n")
    return folder


def train_on(learner: Learner, images: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    """Losses of some steps on one batch."""
    losses = []
    for _ in range(steps):
        learner.sums.restart()
        learner.step(images, labels)
        losses.append(learner.sums.read()[0])
    return losses


def with_a_line(module: ModuleType, before: str, line: str, known: type, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of a module with one more line before a line of its own, in which the name of the class ``known`` stands for it."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(before) == 1
    grown = ModuleType("grown")
    setattr(grown, known.__name__, known)
    monkeypatch.setitem(sys.modules, "grown", grown)
    exec(compile(source.replace(before, f"{line}\n{before}"), "grown", "exec"), vars(grown))
    return grown


def tiny_recipe(clip: Files, data: Path, device: str | torch.device = "cpu", **settings: Any) -> Config:
    """LIFT's recipe on the tiny CLIP and the tiny data, with these settings in place of its own."""
    return fastlift.recipes.lift(
        "list",
        data_root=data,
        train_list=data / "train.txt",
        test_list=data / "test.txt",
        class_names=data / "class_names.txt",
        model=str(clip[0]),
        pretrained=str(clip[1]),
        device=str(device),
        **settings,
    )
