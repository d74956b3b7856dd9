"""Every code block of the guides, and the README's four commands, run on a small folder; only the backbone is a smaller one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import Files
from PIL import Image
from several import Group

import fastlift
from fastlift.cli import main

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CLASSES = {"oak leaf": 30, "birch leaf": 20, "maple leaf": 10}
# What a guide says that its commands leave behind, and what they print.
MADE = {
    "your_own_folder": (["runs/leaves/report.html", "runs/leaves/export/model.onnx.json"], "photo.jpg: "),
    "sizes": (["comparison.html", "seeds.html", "packed/fastlift-pack.json", "runs/many/results.json"], "Overall accuracy"),
    "from_lift": (["runs/theirs/report.html", "runs/here/report.html"], "photo.jpg: "),
    "machines": (["runs/cpu/report.html", "runs/gpu/report.html", "runs/eight/report.html"], "torch"),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with 60 images of three classes, an image to predict, and a checkpoint of the authors' program."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for channel, (name, count) in enumerate(CLASSES.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 80, (40, 48, 3))
            pixels[..., channel] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{i}.jpg")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photos/oak leaf/0.jpg").read_bytes())
    return tmp_path


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def with_small_model(words: list[str], clip: Files) -> list[str]:
    """``words`` of a command that makes a model, with a tiny CLIP in place of the named one."""
    makes = words[0] in ("train", "zero-shot", "import-lift")
    return [*words, "--model", str(clip[0]), "--pretrained", str(clip[1])] if makes else words


def run(words: list[str], clip: Files, folder: Path) -> None:
    if words[0] == "fastlift":
        assert main(with_small_model(words[1:], clip)) == 0, shlex.join(words)
        return
    assert (*words[:2], *words[3:5]) == ("torchrun", "--nproc-per-node", "-m", "fastlift"), shlex.join(words)
    for rank, outcome in enumerate(Group(folder, 2, main, [with_small_model(words[5:], clip)]).join()):
        assert (outcome.code, outcome.value) == (0, 0), f"rank {rank} of {shlex.join(words)}: {outcome.err}"


@pytest.mark.parametrize("guide", GUIDES, ids=[guide.stem for guide in GUIDES])
def test_all_that_a_guide_tells_to_run_runs(
    guide: Path, here: Path, tiny_clip: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    if guide.stem == "from_lift":
        model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=sorted(CLASSES), layers=2)
        torch.save(fastlift.compat.lift_state(model), here / "checkpoint.pth.tar")
    blocks = [block for block in BLOCK.findall(guide.read_text(encoding="utf-8")) if block[0]]
    assert {language for language, _ in blocks} <= {"bash", "python"}
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            names: dict[str, Any] = {}
            small = f'data_root="photos", model={str(tiny_clip[0])!r}, pretrained={str(tiny_clip[1])!r}'
            exec(text.replace('data_root="photos"', small), names)
        else:
            for words in commands(text):
                run(words, tiny_clip, here / f"ranks{number}{words[-1].replace('/', '-')}")
    files, printed = MADE[guide.stem]
    for file in files:
        assert (here / file).is_file(), file
    assert printed in capfd.readouterr().out


def test_the_four_commands_of_the_readme_are_the_guides(here: Path) -> None:
    """The same four, so that running the guide's runs the README's."""
    (first, *_) = [
        text for language, text in BLOCK.findall(GUIDES[-1].read_text(encoding="utf-8")) if language == "bash"
    ]
    assert GUIDES[-1].stem == "your_own_folder"
    told = [text for language, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert commands(first) in [commands(text) for text in told]
    assert len(commands(first)) == 4
