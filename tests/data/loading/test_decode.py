"""Decoding where simplejpeg is missing: the same pixels by Pillow, and one word about it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlift.data.loading.loader import build_loader, without_dali
from fastlift.data.sampling.crops import TrainViews

# `importlib.util.find_spec` still finds it, as where its library does not load; another process, since imports are remembered.
WITHOUT = """
import json, sys, warnings
from pathlib import Path
sys.modules["simplejpeg"] = None
import torch
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.loading.decode import decode
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.crops import TrainViews
executor, output, options = json.loads(sys.argv[1])
index = load_data_set("list", **{key: Path(path) for key, path in options.items()}).train
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    images = []
    for _ in range(2):
        loader = build_loader(index, TrainViews(32), batch_size=4, mean=(0, 0, 0), std=(1, 1, 1), executor=executor,
                              cache_bytes=0, workers=2, bad_images="skip")
        images.append(torch.cat([batch.images for batch in loader.epoch(0)]))
        loader.close()
    decode(index.file(1).read_bytes())
torch.save(images, output)
print(json.dumps([str(warning.message) for warning in told]))
"""


@pytest.mark.parametrize(
    "executor", ["torchvision", pytest.param("dali", marks=pytest.mark.skipif(without_dali() != "", reason="no DALI"))]
)
def test_pillow_decodes_all_where_simplejpeg_is_missing(executor: str, pictures: Any, tmp_path: Path) -> None:
    index = pictures.fill().load().train
    odd = index.file(0).read_bytes()
    index.file(0).write_bytes(odd[:-40] + b"\xff\x02" + odd[-40:])  # DALI does not get it, we decode it: broken
    output, options = tmp_path / "images.pt", {key: str(path) for key, path in pictures.options().items()}
    command = [sys.executable, "-c", WITHOUT, json.dumps([executor, str(output), options])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told.startswith("simplejpeg cannot be imported (")
    assert told.endswith("): Pillow decodes JPEGs, to the same pixels but slower")
    loader = build_loader(
        index, TrainViews(32), batch_size=4, mean=(0, 0, 0), std=(1, 1, 1), cache_bytes=0, bad_images="skip",
    )  # fmt: skip
    expected = torch.cat([batch.images for batch in loader.epoch(0)])
    for images in torch.load(output):
        assert torch.equal(images, expected)
