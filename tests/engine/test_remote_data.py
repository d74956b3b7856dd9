"""Runs on data in a store: the same bits as on the folder, from checkpoint to checkpoint, and with several processes."""

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files, tiny_recipe
from run_files import same_state
from several import together
from stopping import signal_in_step
from web_server import WebServer

import fastlift
from fastlift.config import Config
from fastlift.data.pack import run as pack


@pytest.fixture
def packed(tiny_data: Path, tmp_path: Path) -> Path:
    """A pack of the tiny set in eight shards or so."""
    lists = {f"{split}_list": tiny_data / f"{split}.txt" for split in ("train", "test")}
    names = tiny_data / "class_names.txt"
    pack("list", tmp_path / "pack", data_root=tiny_data, class_names=names, shard_bytes=9000, **lists)
    return tmp_path / "pack"


def test_a_run_goes_on_from_the_folder_to_its_pack_on_a_web_server(
    settings: Config, tmp_path: Path, packed: Path, web: WebServer
) -> None:
    """Stopped on the files and resumed on the server: the same bits as on the files throughout."""
    settings = settings.override(epochs=1)
    fastlift.train(settings, output=tmp_path / "whole")

    with pytest.raises(fastlift.UserError, match="SIGINT: stopped at step 3"), signal_in_step(3):
        fastlift.train(settings, output=tmp_path / "cut")
    remote = settings.override(data_root=f"{web.url}/pack", data_cache=str(tmp_path / "copies"), data_cache_gb=0.001)
    fastlift.train(remote, output=tmp_path / "cut", resume=True)
    same_state(tmp_path / "whole", tmp_path / "cut", "epoch-001")
    assert web.count("GET", "/pack/train-") > 0
    assert any((tmp_path / "copies").glob("?/*"))


def _losses(clip: Files, data: Path, changes: dict[str, Any], folder: Path) -> list[float]:
    settings = tiny_recipe(clip, data, epochs=1, batch_size=8, lr=0.05, log_steps=1, amp="fp32").override(**changes)
    run = fastlift.train(settings, output=folder)
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_processes_that_read_other_shards_train_as_one(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, packed: Path, web: WebServer
) -> None:
    """Two processes by windows of three shards of a store, against one on the local pack: the same losses to rounding."""
    names = {"train_list": None, "test_list": None, "class_names": None, "shuffle_shards": 3}
    one = _losses(tiny_clip, tiny_data, {**names, "data_root": packed}, tmp_path / "one")
    remote = {**names, "data_root": f"{web.url}/pack", "data_cache": str(tmp_path / "copies")}
    both = together(tmp_path / "ranks", 2, _losses, tiny_clip, tiny_data, remote, tmp_path / "two")[0]
    assert len(one) == len(both) > 3
    assert one == pytest.approx(both, rel=1e-5)
