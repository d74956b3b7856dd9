"""A server of a small run, which all tests here ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser as browser
from fixtures import Files, tiny_recipe
from serving_process import Server, serving

import fastlift

for extra in ("fastapi", "uvicorn", "httpx"):
    pytest.importorskip(extra)


@pytest.fixture(scope="session")
def run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny_recipe(tiny_clip, tiny_data, epochs=0, amp="fp32")
    return fastlift.train(settings, output=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture(scope="session")
def server(run: Path) -> Iterator[Server]:
    """One that takes files of a megabyte with four million pixels."""
    with serving(run, "--max-megabytes", "1", "--max-megapixels", "4", "--seconds", "300") as started:
        yield started
