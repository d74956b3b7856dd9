"""torchrun's own elasticity: workers that are killed, nodes that leave and join, and one run at the end of it.

Each start of torchrun's workers costs seconds, so few runs show many things.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import elastic_worker
import pytest
import ranks
import torch
import warm
from elastic_worker import MOMENTS
from fixtures import CLASS_COUNTS, Files
from safetensors.torch import load_file
from several import Group

EPOCHS, STEPS, EVERY = 3, 4, 2  # of 12 images, and of 2 at the end of an epoch; a checkpoint every two steps


def command(clip: Files, data: Path, output: Path) -> list[str]:
    """What a restart loop repeats."""
    going_on = ["--epochs", str(EPOCHS), "--checkpoint-steps", str(EVERY), "--resume", "auto", "--compile", "off"]
    return ranks.command(clip, data, output, *going_on)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where workers that start in a moment come from."""
    with warm.warm(tmp_path_factory.mktemp("workers")) as address:
        yield address


@contextmanager
def torchrun(
    workers: Path, records: Path, arguments: list[str], *flags: str, kills: Any = (), gates: Any = (), **variables: str
) -> Iterator[Any]:
    """An agent of torchrun with workers that keep records in a folder; ended with the block."""
    records.mkdir(exist_ok=True)
    (records / "plan.json").write_text(json.dumps({"kills": kills, "gates": gates}))
    start = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.1", *flags]
    started = [*start, warm.__file__, str(workers), str(records), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True, env=environment) as agent:
        try:
            yield agent
        finally:
            agent.terminate()  # nothing where it has ended; otherwise it ends its workers


def undisturbed(clip: Files, data: Path, folder: Path) -> Path:
    """The run of one process that nothing happens to."""
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"kills": [], "gates": []}))
    (outcome,) = Group(folder, 1, elastic_worker.main, (folder, command(clip, data, folder / "run"))).join()
    assert outcome.value == 0, outcome.err
    return folder / "run"


def starts(records: Path) -> list[dict[int, list[dict[str, Any]]]]:
    """Of each start of the workers: its steps in order, each with the lines of all ranks that came to it."""
    lines = [json.loads(line) for path in records.glob("*.jsonl") for line in path.read_text().splitlines()]
    found: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for line in sorted(lines, key=lambda line: (line["start"], line["step"])):
        found.setdefault(line["start"], {}).setdefault(line["step"], []).append(line)
    return list(found.values())


def check_samples(attempts: list[dict[int, list[dict[str, Any]]]]) -> None:
    """Each epoch shows each sample once, but for the steps since the last checkpoint, which show the same ones again."""
    done = 0
    for steps in attempts:
        first = min(steps)
        at_checkpoint = (done // EVERY) * EVERY
        # A step that was asked to stop is saved; a last save may have been cut short.
        assert first - 1 in (done, at_checkpoint, at_checkpoint - EVERY), (first, done)
        assert sorted(steps) == list(range(first, max(steps) + 1))
        done = max(steps)
    assert done == EPOCHS * STEPS
    shown = {step: sorted(s for line in lines for s in line["samples"]) for a in attempts for step, lines in a.items()}
    for attempt in attempts:
        for step, lines in attempt.items():
            if len(lines) == lines[0]["size"]:  # all ranks came to it
                assert sorted(s for line in lines for s in line["samples"]) == shown[step]
    for epoch in range(EPOCHS):
        samples = [s for step in range(epoch * STEPS + 1, (epoch + 1) * STEPS + 1) for s in shown[step]]
        assert sorted(samples) == list(range(sum(CLASS_COUNTS)))


def check_same(run: Path, whole: Path) -> None:
    """Two runs have trained the same, to rounding, and logged each step once."""
    for epoch in range(1, EPOCHS + 1):
        one, other = (load_file(path / "checkpoints" / f"epoch-{epoch:03d}.safetensors") for path in (run, whole))
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5, msg=name)
    logs = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (run, whole)]
    assert [(e["event"], e["step"]) for e in logs[0]] == [(e["event"], e["step"]) for e in logs[1]]
    for mine, theirs in zip(*logs, strict=True):
        for name in {"loss", "train_loss"} & mine.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5)


def test_three_killed_workers_of_four(workers: Path, tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """At random moments of random steps: torchrun starts all again, and the run is the one that nothing happened to."""
    draw = random.Random(17)
    steps = sorted(draw.sample(range(2, EPOCHS * STEPS), 3))
    kills = [[step, draw.randrange(4), draw.choice(MOMENTS)] for step in steps]
    arguments = command(tiny_clip, tiny_data, tmp_path / "run")
    flags = ("--standalone", "--nproc-per-node", "4", "--max-restarts", "3")
    with torchrun(workers, tmp_path / "records", arguments, *flags, kills=kills) as agent:
        said = agent.communicate(timeout=300)[1]
    assert agent.returncode == 0, said
    assert sorted(path.name for path in (tmp_path / "records").glob("killed-*")) == sorted(f"killed-{s}" for s in steps)
    attempts = starts(tmp_path / "records")
    assert len(attempts) == 4
    check_samples(attempts)
    check_same(tmp_path / "run", undisturbed(tiny_clip, tiny_data, tmp_path / "whole"))
    messages = [line for line in said.splitlines() if line.startswith("fastlift: ")]
    assert len(messages) == 3, said  # one a start
    assert sum("another process of this run has ended without a word" in message for message in messages) >= 2, messages


def reached(records: Path, step: int, agent: Any) -> None:
    """The workers wait at a gate."""
    deadline = time.monotonic() + 240
    while not (records / f"at-{step}").exists():
        assert agent.poll() is None, agent.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_node_joins_and_a_node_dies(workers: Path, tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """Two processes, then four, then two: no step is lost where a node joins, and where one dies those since a checkpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    records, arguments = tmp_path / "records", command(tiny_clip, tiny_data, tmp_path / "run")
    meeting = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--rdzv-id",
        "run",
        "--local-addr",
        "127.0.0.1",
    ]
    patience = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"
    flags = ("--nnodes", "1:2", "--nproc-per-node", "2", "--max-restarts", "1", *meeting, "--rdzv-conf", patience)
    # torch 2.14: a node that joins waits for an address that the others told in the first round alone, unless each round has
    # a store of its own.
    more: dict[str, Any] = {"gates": [[3, 2], [6, 4]], "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with torchrun(workers, records, arguments, *flags, **more) as stays:
        reached(records, 3, stays)
        with torchrun(workers, records, arguments, *flags, **more) as dies:
            reached(records, 6, stays)
            children = Path(f"/proc/{dies.pid}/task/{dies.pid}/children").read_text().split()
            for pid in (dies.pid, *map(int, children)):
                os.kill(pid, signal.SIGKILL)
            dies.communicate()
        (records / "go-6").touch()
        said = stays.communicate(timeout=240)[1]
    assert stays.returncode == 0, said
    assert len(children) == 2
    attempts = starts(records)
    assert [{line["size"] for lines in steps.values() for line in lines} for steps in attempts] == [{2}, {4}, {2}]
    assert [(min(steps), max(steps)) for steps in attempts] == [(1, 3), (4, 6), (5, EPOCHS * STEPS)]
    check_samples(attempts)
    check_same(tmp_path / "run", undisturbed(tiny_clip, tiny_data, tmp_path / "whole"))
    assert "SIGTERM: stopped at step 3, saved as step-00000003.safetensors" in said


def test_what_a_scheduler_ends_is_not_started_again(
    workers: Path, tiny_clip: Files, tiny_data: Path, tmp_path: Path
) -> None:
    """Its SIGTERM reaches torchrun, which passes it on: the step is saved, and torchrun ends, though restarts are left."""
    records, arguments = tmp_path / "records", command(tiny_clip, tiny_data, tmp_path / "run")
    flags = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    with torchrun(workers, records, arguments, *flags, gates=[[3, 2]]) as agent:
        reached(records, 3, agent)
        agent.terminate()
        said = agent.communicate(timeout=120)[1]
    assert agent.returncode == 1, said
    assert [sorted(steps) for steps in starts(records)] == [[1, 2, 3]]
    assert said.count("fastlift: SIGTERM: stopped at step 3, saved as step-00000003.safetensors") == 1
    assert (tmp_path / "run" / "checkpoints" / "step-00000003.safetensors").is_file()
