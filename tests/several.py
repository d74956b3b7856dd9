"""Several processes as torchrun starts them, forked from one that has imported what they would import: a group costs a second."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command does, which here comes after torch
_CONTEXT = multiprocessing.get_context("forkserver")
_LIBRARIES = ("torchvision", "open_clip", "timm", "tyro", "torch.utils.tensorboard", "fastlift_kernels.adapter.native")
_OURS = (
    "engine.train",
    "engine.evaluate",
    "cli",
    "commands.train",
    "commands.evaluate",
    "data.loading.torch_loader",
    "reporting.html",
)
PRELOADED = (*_LIBRARIES, *(f"fastlift.{name}" for name in (*_OURS, "reporting.plots")))
_CONTEXT.set_forkserver_preload(list(PRELOADED))


@dataclass(frozen=True)
class Outcome:
    """How one process ended: its exit code, what it wrote, and what its function gave."""

    code: int | None
    out: str
    err: str
    value: Any


class Group:
    """``processes`` ranks that each call ``function(*arguments)``, or their own of a list of arguments."""

    def __init__(
        self, folder: Path, processes: int, function: Callable[..., Any], arguments: Sequence[Any], *, own: bool = False
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.processes, self._ends = [], []
        for rank in range(processes):
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
            environment = dict(os.environ) | {name: str(value) for name, value in world.items()}
            environment |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
            ours, theirs = _CONTEXT.Pipe(duplex=False)
            mine = arguments[rank] if own else arguments
            process = _CONTEXT.Process(target=_run, args=(folder, environment, theirs, function, tuple(mine)))
            process.start()
            theirs.close()
            self.processes.append(process)
            self._ends.append(ours)

    def join(self, timeout: float = 300.0) -> list[Outcome]:
        """Wait for all of them; fails where one does not end."""
        values = [self._value(end, timeout) for end in self._ends]
        for process in self.processes:
            process.join(timeout)
        hanging = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        for rank in hanging:
            self.processes[rank].kill()
        texts = [
            [(self.folder / f"{rank}.{kind}").read_text() for kind in ("out", "err")] for rank in range(len(values))
        ]
        assert not hanging, f"ranks {hanging} did not end: {texts}"
        return [Outcome(p.exitcode, *text, value) for p, text, value in zip(self.processes, texts, values, strict=True)]

    @staticmethod
    def _value(end: Connection, timeout: float) -> Any:
        try:
            return pickle.loads(end.recv_bytes()) if end.poll(timeout) else None
        except EOFError:
            return None


def together(folder: Path, processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function`` gives on each rank; fails where one of them does."""
    outcomes = Group(folder, processes, function, arguments).join()
    for rank, outcome in enumerate(outcomes):
        assert outcome.code == 0, f"rank {rank}: {outcome.err}"
    return [outcome.value for outcome in outcomes]


def _run(
    folder: Path, environment: dict[str, str], end: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    rank = environment["RANK"]
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    code = 1
    try:
        end.send_bytes(pickle.dumps(function(*arguments)))  # not send, which would share tensors' memory
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    end.close()
    sys.exit(code)
