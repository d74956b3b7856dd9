"""Every example runs as a user runs it, trains, and prints both speeds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "plain_loop.py": ["--size", "32"],
    "lightning_fit.py": ["--size", "32"],
    "transformers_trainer.py": [],
    "accelerate_loop.py": [],
    "timm_train.py": ["--size", "32"],
}
CLIENTS = {
    "lightning_fit.py": "lightning",
    "transformers_trainer.py": "transformers",
    "accelerate_loop.py": "accelerate",
}
LINE = re.compile(r"^(plain PyTorch|fastlift): ([\d.]+) images/s(?:, loss ([\d.]+))?", re.MULTILINE)


def test_all_examples_are_tried() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_example(name: str, tiny_data: Path, tmp_path: Path) -> None:
    for package in ("accelerate", CLIENTS[name]) if name in CLIENTS else ():
        pytest.importorskip(package)
    more = ["--data", str(tiny_data)] if name == "plain_loop.py" else []
    more += ["--save", str(tmp_path / "adapters")] if name == "accelerate_loop.py" else []
    command = [sys.executable, str(EXAMPLES / name), "--batch", "4", "--steps", "2", *SMALL[name], *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    found = LINE.findall(done.stdout)
    assert [kind for kind, _, _ in found] == ["plain PyTorch", "fastlift"]
    assert all(float(speed) > 0 for _, speed, _ in found)
    plain, fused = (loss for _, _, loss in found)
    if plain:
        assert abs(float(plain) - float(fused)) <= 2e-3 * max(1.0, float(plain)), "the two train differently"
    if name == "accelerate_loop.py":
        assert (tmp_path / "adapters" / "adapters.safetensors").is_file()
