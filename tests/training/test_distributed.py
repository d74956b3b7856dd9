"""Two processes take the same steps as one, and grade every image once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastlift.distributed import World, average_gradients, join

Files = tuple[Path, Path]


def launch(arguments: list[str], processes: int) -> None:
    """What torchrun does: the same command with the rank in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(processes):
        world = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = os.environ | {name: str(value) for name, value in world.items()} | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "fastlift", *arguments]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def test_two_processes_are_one(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    lists = ["--train-list", str(tiny_data / "train.txt"), "--test-list", str(tiny_data / "test.txt")]
    data = [
        "--dataset",
        "list",
        "--data-root",
        str(tiny_data),
        *lists,
        "--class-names",
        str(tiny_data / "class_names.txt"),
    ]
    model = ["--model", str(tiny_clip[0]), "--pretrained", str(tiny_clip[1])]
    training = ["--epochs", "2", "--batch-size", "8", "--lr", "0.05", "--device", "cpu"]
    for processes in (1, 2):
        launch(["train", *data, *model, *training, "--output", str(tmp_path / str(processes))], processes)
    one, two = (load_file(tmp_path / name / "checkpoints" / "epoch-002.safetensors") for name in ("1", "2"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    grades = [json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("1", "2")]
    assert grades[1]["samples"] == grades[0]["samples"] == 24
    assert grades[1]["accuracy"] == grades[0]["accuracy"]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    world, device = join(torch.device("cpu"))
    assert world == World()
    assert device.type == "cpu"
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    average_gradients([parameter], world)
    assert parameter.grad.tolist() == [3.0, 3.0]
