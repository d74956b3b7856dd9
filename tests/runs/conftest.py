"""Two small runs that the tests of run folders damage copies of."""

import shutil
from pathlib import Path

import pytest
from fixtures import Files, tiny_recipe
from image_files import encode, image_files, make_image  # noqa: F401 - fixtures

import fastlift
from fastlift.config import Config


@pytest.fixture(scope="session")
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, tuner="none", epochs=2, batch_size=8, lr=0.05, log_steps=1, amp="fp32")


@pytest.fixture(scope="session")
def trained(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, with its results."""
    return fastlift.train(settings, output=tmp_path_factory.mktemp("trained") / "run").folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that has not ended yet."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / "results.json").unlink()
    return folder


@pytest.fixture(scope="session")
def others(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same settings with another seed."""
    return fastlift.train(settings.override(seed=1), output=tmp_path_factory.mktemp("others") / "run").folder
