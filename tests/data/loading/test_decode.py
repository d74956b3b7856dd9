"""Decoding where simplejpeg is missing: the same pixels by Pillow, and one word about it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loaders import BACKENDS, WITH_HELPERS, make_loader

from fastlift.data.sampling.crops import TrainCrops

# `importlib.util.find_spec` still finds it, as where its library does not load; another process, since imports are remembered.
WITHOUT = """
import json, sys, warnings
from pathlib import Path
sys.modules["simplejpeg"] = None
import torch
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.loading.decode import decode
from fastlift.data.sampling.crops import TrainCrops
from loaders import make_loader
backend, output, options = json.loads(sys.argv[1])
index = load_data_set("list", **{key: Path(path) for key, path in options.items()}).train
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    images = []
    for _ in range(2):
        loader = make_loader(index, TrainCrops(32), backend, cache_bytes=0, workers=2, bad_images="skip")
        images.append(torch.cat([batch.images for batch in loader.epoch(0)]))
        loader.close()
    decode(index.file(1).read_bytes())
torch.save(images, output)
print(json.dumps([str(warning.message) for warning in told]))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_pillow_decodes_all_where_simplejpeg_is_missing(backend: str, image_files: Any, tmp_path: Path) -> None:
    index = image_files.fill().load().train
    odd = index.file(0).read_bytes()
    index.file(0).write_bytes(odd[:-40] + b"\xff\x02" + odd[-40:])  # DALI does not get it, we decode it: broken
    output, options = tmp_path / "images.pt", {key: str(path) for key, path in image_files.options().items()}
    command = [sys.executable, "-c", WITHOUT, json.dumps([backend, str(output), options])]
    done = subprocess.run(command, capture_output=True, text=True, env=WITH_HELPERS)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told.startswith("simplejpeg cannot be imported (")
    assert told.endswith("): Pillow decodes JPEGs, to the same pixels but slower")
    loader = make_loader(index, TrainCrops(32), backend, cache_bytes=0, bad_images="skip")
    expected = torch.cat([batch.images for batch in loader.epoch(0)])
    for images in torch.load(output):
        assert torch.equal(images, expected)
