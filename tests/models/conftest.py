"""What tests of many models share."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlift.models import backbones


@pytest.fixture(scope="module")
def weights_read_once(tiny_clip: tuple[Path, Path]) -> Iterator[None]:
    """Where hundreds of models are built, their frozen ViT is read once and copied."""
    once = backbones.load(*tiny_clip)

    def copied(*_: Any) -> backbones.Backbone:
        return replace(once, vit=deepcopy(once.vit))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load", copied)
        yield
