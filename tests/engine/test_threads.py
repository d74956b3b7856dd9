"""``--threads``: what computes, what a run notes of it, and with how many a resumed one goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, Told

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.engine import opening
from fastlift.runs import folder as runs
from fastlift.training.step import Learner


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    lists = {name: tiny_data / f"{name}.txt" for name in ("class_names",)}
    lists |= {f"{split}_list": tiny_data / f"{split}.txt" for split in ("train", "test")}
    places = {"data_root": tiny_data, "model": str(tiny_clip[0]), "pretrained": str(tiny_clip[1])}
    return fastlift.recipes.lift("list", **lists, **places, epochs=1, batch_size=16, device="cpu", amp="fp32")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads each step had."""
    found: list[int] = []
    step = Learner.step

    def watched(self: Learner, *given: Any) -> Any:
        found.append(torch.get_num_threads())
        return step(self, *given)

    monkeypatch.setattr(Learner, "step", watched)
    return found


def test_a_resumed_run_goes_on_with_as_many_threads(settings: Config, tmp_path: Path, seen: list[int]) -> None:
    """Sums of floats are cut by threads, so that other ones would change the last bits."""
    before = torch.get_num_threads()
    path = tmp_path / "run"
    run = fastlift.train(settings.override(threads=before + 1), output=path)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before, "given back afterwards"
    assert runs.threads_of(path) == before + 1 == run.results["machine"]["threads"]
    for asked, got, told in ((None, before + 1, ""), (before, before, f"{before} threads, {before + 1} before")):
        (path / "results.json").unlink()
        for checkpoint in (path / "checkpoints").iterdir():
            checkpoint.unlink()
        seen.clear()
        ui = Told()
        fastlift.train(settings.override(threads=asked), output=path, resume=True, ui=ui)
        assert set(seen) == {got}
        assert told in ui.text
    assert config.load(path / "config.json").run.threads == before


def test_the_number_in_the_process_is_noted(settings: Config, tmp_path: Path) -> None:
    run = fastlift.train(settings, output=tmp_path / "run")
    assert config.load(run.folder / "config.json").run.threads == torch.get_num_threads()


def test_more_threads_than_cpus_are_told(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    runs.create(tmp_path / "run", settings.merged(threads=64), overwrite=False)
    monkeypatch.setattr(opening, "cpus", lambda: 2)
    ui = Told()
    assert opening.threads_to_go_on_with(settings.run.threads, tmp_path / "run", ui) == 64
    assert "may use 2 CPUs: --threads 2" in ui.text
