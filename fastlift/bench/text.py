"""``fastlift bench text``: text features of class names compared with open_clip, which computes all 77 tokens of every prompt."""

from __future__ import annotations

import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.bench.rounds import Step, alternate
from fastlift.models import backbones
from fastlift.models.backbones.backbone import TextTower
from fastlift.models.text.features import PROMPTS_A_BATCH, encode_prompts, prompts_for, text_features
from fastlift.system.device import describe_machine, versions


@dataclass(frozen=True)
class TextBench:
    """Seconds for the features of all classes, and how far they are from open_clip's."""

    model: str
    classes: int
    plain_s: float
    fastlift_s: float
    cached_s: float
    speedup: float
    largest_difference: float
    machine: dict[str, Any]
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> Any:
        from rich.text import Text

        return Text(
            f"{self.model}, {self.classes} classes: {self.plain_s:.1f} s with all tokens, {self.fastlift_s:.2f} s cut to "
            f"length ({self.speedup:.1f} times), {1e3 * self.cached_s:.0f} ms from the cache; features differ by at most "
            f"{self.largest_difference:.1e}"
        )


@torch.inference_mode()
def plain(tower: TextTower, prompts: list[str]) -> Tensor:
    """L2-normed features by the model's own ``encode_text``, with every prompt padded to the context length."""
    tokens = tower.tokenize(prompts)
    encode: Any = tower.model.encode_text
    return torch.cat([F.normalize(encode(part), dim=1) for part in tokens.split(PROMPTS_A_BATCH)])


def run(model: str = "ViT-B-16-quickgelu", *, class_names: list[str] | None = None, rounds: int = 3) -> TextBench:
    """Measure, on the CPU with random weights.

    Args:
        class_names: default: 1000 names of ImageNet's kind of length.
        rounds: alternated rounds of open_clip and fastlift.
    """
    from open_clip import IMAGENET_CLASSNAMES

    names, tower = class_names or list(IMAGENET_CLASSNAMES), _tower(model)
    prompts = [prompt for group in prompts_for(names, "default") for prompt in group]
    difference = float((plain(tower, prompts) - encode_prompts(tower, prompts)).abs().max())
    ways: dict[str, Step] = {"plain": lambda: plain(tower, prompts), "fastlift": lambda: encode_prompts(tower, prompts)}
    timings = alternate(ways, rounds, warmup=0)
    with tempfile.TemporaryDirectory() as folder:
        text_features(tower, names, cache=Path(folder))
        start = time.perf_counter()
        text_features(tower, names, cache=Path(folder))
        cached = time.perf_counter() - start
    slow, fast = timings["plain"].median, timings["fastlift"].median
    machine = describe_machine(torch.device("cpu"))
    return TextBench(model, len(names), slow, fast, cached, slow / fast, difference, machine, versions())


def _tower(model: str) -> TextTower:
    """With random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        tower = backbones.load(model).text
    assert tower is not None
    return tower


def ensemble_seconds(model: str = "ViT-B-16-quickgelu") -> float:
    """Seconds for the mean features of ImageNet's 1000 classes over 80 templates, cold."""
    from open_clip import IMAGENET_CLASSNAMES

    tower = _tower(model)
    with tempfile.TemporaryDirectory() as folder:  # an empty cache
        start = time.perf_counter()
        text_features(tower, list(IMAGENET_CLASSNAMES), prompt="ensemble", cache=Path(folder))
        return time.perf_counter() - start
