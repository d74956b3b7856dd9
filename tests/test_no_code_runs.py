"""No pickle is executed, in whatever place a file is read: the list of the places, each tried with several pickles.

Each pickle would write a marker. A place either refuses the file with a ``UserError``, or makes again what the file was.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import CLASS_NAMES
from PIL import Image

import fastlift
from fastlift import config
from fastlift.data import pack
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.image_sources import FoundImage
from fastlift.data.loading.looks import Looks
from fastlift.data.loading.reading import Condition
from fastlift.errors import UserError
from fastlift.evaluation.predict import index_images
from fastlift.interop import lift_checkpoints as compat
from fastlift.models import backbones
from fastlift.models.backbones.backbone import TextTower
from fastlift.models.text.features import prompts_for, text_features
from fastlift.reporting.record import read_run
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.identity import load_identity


class Evil:
    """Unpickled, it opens a file for writing."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return (open, (self.marker, "w"))


def _torch_file(evil: Evil, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"tuner": {"w": evil}, "head": evil}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def _numpy_file(evil: Evil, save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, np.array([evil], dtype=object))
    return file.getvalue()


PAYLOADS: dict[str, Callable[[Evil], bytes]] = {
    "pickle": pickle.dumps,
    "text pickle": lambda evil: pickle.dumps(evil, protocol=0),
    "torch": lambda evil: _torch_file(evil, True),
    "old torch": lambda evil: _torch_file(evil, False),
    "npy": lambda evil: _numpy_file(evil, np.save),
    "npz": lambda evil: _numpy_file(evil, np.savez),
}
LOADERS: dict[str, Callable[[bytes], Any]] = {
    "pickle": pickle.loads,
    "text pickle": pickle.loads,
    "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "old torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    "npz": lambda data: np.load(io.BytesIO(data), allow_pickle=True)["arr_0"],
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_pickles_would_run(tmp_path: Path, payload: str) -> None:
    """Loaded carelessly, each of them leaves its mark."""
    LOADERS[payload](PAYLOADS[payload](Evil(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@dataclass(frozen=True)
class Scene:
    """What a place may need: a folder of its own, the pickle, a tiny CLIP and tiny images."""

    folder: Path
    data: bytes
    clip: tuple[Path, Path]
    images: Path

    def file(self, name: str) -> Path:
        """The pickle under a name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path

    def run(self) -> runs.RunFolder:
        """A run folder with its settings."""
        (self.folder / "run" / "checkpoints").mkdir(parents=True)
        run = runs.RunFolder(self.folder / "run")
        settings = fastlift.recipes.lift(model=str(self.clip[0]), pretrained=str(self.clip[1]))
        run.config.write_text(json.dumps(config.to_dict(settings)))
        run.data.write_text(json.dumps({"class_names": list(CLASS_NAMES)}))
        return run

    def options(self) -> dict[str, Any]:
        """Of ``load_data_set``, for the tiny images."""
        named = {name: self.images / f"{name}.txt" for name in ("class_names",)}
        lists = {f"{split}_list": self.images / f"{split}.txt" for split in ("train", "test")}
        return {"data_root": self.images, "cache_dir": self.folder / "cache", **named, **lists}


def _checkpoint(scene: Scene) -> None:
    checkpoints.read(scene.file("epoch-001.safetensors"))


def _position(scene: Scene) -> None:
    checkpoints.read_train_state(scene.file("epoch-001.safetensors"))


def _newest_checkpoint(scene: Scene) -> None:
    run = scene.run()
    scene.file("run/checkpoints/epoch-001.safetensors")
    fastlift.load_run(run.path)


def _adapters(scene: Scene) -> None:
    fastlift.load_adapters(torch.nn.Identity(), scene.file("adapters.safetensors").parent)


def _text_cache(scene: Scene) -> None:
    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(4, 3))

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.float() @ self.weight

    tower = TextTower(Tower(), lambda texts: torch.tensor([[len(text), 1, 2, 3] for text in texts]))
    wanted = text_features(tower, ["a", "bb"], cache=scene.folder)
    (file,) = (scene.folder / "text_features").iterdir()
    file.write_bytes(scene.data)
    assert torch.equal(text_features(tower, ["a", "bb"], cache=scene.folder), wanted)


def _index_cache(scene: Scene) -> None:
    before = load_data_set("list", **scene.options())
    cached = [path for path in (scene.folder / "cache").rglob("*") if path.is_file()]
    assert cached
    for path in cached:
        path.write_bytes(scene.data)
    assert load_data_set("list", **scene.options()).train.fingerprint == before.train.fingerprint


def _looks_cache(scene: Scene) -> None:
    train = load_data_set("list", **scene.options()).train
    condition = Condition(1000, 10**18, 10**18, 7)
    known = Looks(train)
    known.note(0, condition, 2 * 10**18, None)
    known.save()
    (file,) = (scene.folder / "cache" / "looks").iterdir()
    file.write_bytes(scene.data)
    assert not Looks(train).known(0, condition)


def _pack(name: str) -> Callable[[Scene], None]:
    def place(scene: Scene) -> None:
        pack.run("list", scene.folder / "pack", **scene.options())
        assert (scene.folder / "pack" / name).is_file()
        scene.file(f"pack/{name}")
        load_data_set("list", data_root=scene.folder / "pack", cache_dir=scene.folder / "cache")

    return place


def _list(option: str) -> Callable[[Scene], None]:
    def place(scene: Scene) -> None:
        load_data_set("list", **(scene.options() | {option: scene.file("list.txt")}))

    return place


def _cifar(scene: Scene) -> None:
    """torchvision reads these with pickle, after comparing their MD5 with the published one."""
    from torchvision.datasets import CIFAR10

    for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list, ("batches.meta", "")):
        scene.file(f"cifar-10-batches-py/{name}")
    load_data_set("cifar10_ir100", data_root=scene.folder)


def _cifar_archive(scene: Scene) -> None:
    scene.file("cifar-10-python.tar.gz")
    load_data_set("cifar10_ir100", data_root=scene.folder)


def _image(scene: Scene) -> None:
    path = scene.file("image.jpg")
    _, _, broken = index_images([FoundImage(path.name, str(path))])
    assert 0 in broken


def _lift_file(scene: Scene) -> None:
    compat.as_lift_state(scene.file("checkpoint.pth.tar"))


def _start(scene: Scene) -> None:
    model = fastlift.create_model(scene.clip[0], pretrained=scene.clip[1], class_names=CLASS_NAMES)
    compat.load_lift_checkpoint(model, scene.file("checkpoint.pth.tar"))


PLACES: dict[str, Callable[[Scene], object]] = {
    "--pretrained FILE": lambda scene: backbones.load(scene.clip[0], scene.file("weights.pt")),
    "--pretrained FILE.safetensors": lambda scene: backbones.load(scene.clip[0], scene.file("w.safetensors")),
    "--pretrained FILE, timm": lambda scene: backbones.load("timm:vit_tiny_patch16_224", scene.file("w.pt"), 32),
    "--model FILE.json": lambda scene: backbones.load(scene.file("model.json"), scene.clip[1]),
    "--prompt descriptor:FILE": lambda scene: prompts_for(["cat"], f"descriptor:{scene.file('prompts.json')}"),
    "--config FILE": lambda scene: config.load(scene.file("config.json")),
    "--train-list FILE": _list("train_list"),
    "--test-list FILE": _list("test_list"),
    "--class-names FILE": _list("class_names"),
    "import-lift CHECKPOINT": _lift_file,
    "train(start=FILE)": _start,
    "a run's checkpoint": _checkpoint,
    "a checkpoint's place": _position,
    "a run's newest checkpoint": _newest_checkpoint,
    "a run's config.json": lambda scene: (
        runs.open_run(scene.file("run/config.json").parent) and read_run(scene.folder / "run")
    ),
    "a run's data.json": lambda scene: (
        scene.run(),
        scene.file("run/data.json"),
        runs.RunFolder(scene.folder / "run").class_names(),
    ),
    "a run's results.json": lambda scene: (scene.run(), scene.file("run/results.json"), read_run(scene.folder / "run")),
    "a run's metrics.jsonl": lambda scene: (
        scene.run(),
        scene.file("run/metrics.jsonl"),
        read_run(scene.folder / "run"),
    ),
    "a run's run.json": lambda scene: load_identity(scene.file("run.json")),
    "adapters.safetensors": _adapters,
    "the cache of text features": _text_cache,
    "the cache of indices": _index_cache,
    "the cache of what is known of JPEGs": _looks_cache,
    "a pack's manifest": _pack("fastlift-pack.json"),
    "a pack's index": _pack("train.npz"),
    "a pack's shard": _pack("train-000000.tar"),
    "CIFAR's batches": _cifar,
    "CIFAR's archive": _cifar_archive,
    "an image": _image,
}
# What is made again, or told without an error: a line that is no JSON, an image that is none.
NO_ERROR = {
    "a run's metrics.jsonl",
    "a run's run.json",
    "the cache of text features",
    "the cache of indices",
    "the cache of what is known of JPEGs",
    "an image",
}


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of one image a split, with lists."""
    folder = tmp_path_factory.mktemp("few")
    for split in ("train", "test"):
        for label in range(2):
            path = folder / split / f"{label}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 40), (100 * label, 50, 50)).save(path)
        (folder / f"{split}.txt").write_text("".join(f"{split}/{label}.png {label}\n" for label in range(2)))
    (folder / "class_names.txt").write_text("0 red\n1 blue\n")
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_no_pickle_runs(place: str, tiny_clip: tuple[Path, Path], few_images: Path, tmp_path: Path) -> None:
    for payload, make in PAYLOADS.items():
        marker, folder = tmp_path / "marker", tmp_path / payload
        folder.mkdir()
        scene = Scene(folder, make(Evil(marker)), tiny_clip, few_images)
        said = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                PLACES[place](scene)
            except UserError as error:
                said = str(error)
        assert (said == "") == (place in NO_ERROR), f"{payload}: {said or 'nothing was said'}"
        assert not marker.exists(), f"{payload} ran"
        shutil.rmtree(folder)
