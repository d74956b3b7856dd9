"""Settings of the small runs that soups are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files, tiny_recipe

import fastlift
from fastlift.config import Config

Made = Callable[..., Path]


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, epochs=1, batch_size=16, lr=0.05, eval_batch=24, amp="fp32", threads=1)


@pytest.fixture
def made(settings: Config, tmp_path: Path) -> Made:
    """Trains a run of these settings, and gives its folder."""

    def make(name: str, **changes: Any) -> Path:
        return fastlift.train(settings.override(**changes), output=tmp_path / name, ui=None).folder

    return make
