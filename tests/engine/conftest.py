"""Settings of the small runs that the tests of the engine train."""

from pathlib import Path

import pytest
from fixtures import Files, tiny_recipe
from web_server import web as web

from fastlift.config import Config


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    # Not amp "auto", which means another dtype on another processor.
    return tiny_recipe(tiny_clip, tiny_data, epochs=3, batch_size=8, lr=0.05, log_steps=1, eval_batch=7, amp="fp32")
