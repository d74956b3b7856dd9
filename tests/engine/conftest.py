"""Settings of the small runs that the tests of the engine train."""

from pathlib import Path

import pytest
from fixtures import tiny_recipe

from fastlift.config import Config

Files = tuple[Path, Path]


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(
        tiny_clip,
        tiny_data,
        epochs=3,
        batch_size=8,
        lr=0.05,
        log_steps=1,
        eval_batch=7,
        amp="fp32",  # what "auto" means depends on the processor
    )
