"""The small run that tests of several processes train, its processes, and what they say."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from fixtures import Files
from several import Outcome


def command(clip: Files, data: Path, output: Path, *more: str) -> list[str]:
    """Two epochs of four steps: three of 12 images and one of 2."""
    lists = ["--dataset", "list", "--data-root", str(data), "--class-names", str(data / "class_names.txt")]
    lists += ["--train-list", str(data / "train.txt"), "--test-list", str(data / "test.txt")]
    model = ["--model", str(clip[0]), "--pretrained", str(clip[1]), "--init", "random", "--device", "cpu"]
    training = ["--epochs", "2", "--batch-size", "12", "--lr", "0.05", "--amp", "fp32", "--log-steps", "1"]
    return ["train", *lists, *model, *training, "--workers", "1", "--output", str(output), *more]


def told(outcomes: list[Outcome]) -> list[str]:
    """What all ranks said of an error; no traceback, no warning of torch's."""
    lines = [line for outcome in outcomes for line in outcome.err.splitlines()]
    assert not [line for line in lines if "Traceback" in line or "[W" in line or "[rank" in line], lines
    return [line for line in lines if line.startswith("fastlift: ")]


def workers(run: Path) -> dict[str, int]:
    """The running processes that train into this folder, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            rank = re.search(rb"(?:^|\0)RANK=(\d+)\0", (process / "environ").read_bytes())
        except OSError:
            continue
        if rank and str(run).encode() in words:
            found[rank[1].decode()] = int(process.name)
    return found


def on_hosts() -> None:
    """As if each rank had a machine of its own."""
    rank, os.environ["LOCAL_RANK"] = os.environ["RANK"], "0"
    socket.gethostname = lambda: f"node-{rank}"  # type: ignore[assignment]
