"""A process of its own for a part: started, watched, and ended with everything that it started."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.documents import ROOT

POLL_S = 0.1
KILLED_S = 20.0
KEPT_CHARACTERS = 2000  # of what a process wrote to stderr


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (negative: the signal), why it was ended (empty: by itself), its last words."""

    status: int
    why: str
    words: str


def environment(scratch: Path, is_rehearsal: bool) -> dict[str, str]:
    """The variables of a part's process: packages of this checkout are found, whether they are installed or not.

    ``fastlift_kernels`` lies in the folder ``kernels``; where it is not installed, a link of its name is made. A rehearsal
    sees no GPU, also where there is one.
    """
    paths = [str(ROOT)]
    if importlib.util.find_spec("fastlift_kernels") is None:
        links = scratch / "packages"
        links.mkdir(exist_ok=True)
        if not (links / "fastlift_kernels").exists():
            (links / "fastlift_kernels").symlink_to(ROOT / "kernels")
        paths.append(str(links))
    inherited = os.environ.get("PYTHONPATH")
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if is_rehearsal else {})
    return os.environ | offline | {"PYTHONPATH": os.pathsep.join(paths + ([inherited] if inherited else []))}


def run(command: list[str], scratch: Path, is_rehearsal: bool, must_end: Callable[[], str]) -> Ended:
    """Run ``command`` in a process group of its own until it ends or ``must_end`` gives a reason to end it.

    What it prints is printed; what it writes to stderr is kept, and its end is given back.
    """
    errors = scratch / "stderr.txt"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(scratch, is_rehearsal),
            stdin=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
    why = ""
    try:
        while process.poll() is None:
            if why := must_end():
                break
            time.sleep(POLL_S)
    finally:  # also where this process is asked to stop
        kill_group(process)
    return Ended(
        -signal.SIGKILL if process.returncode is None else process.returncode,
        why,
        errors.read_bytes()[-KEPT_CHARACTERS:].decode(errors="replace"),
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: what hangs in a driver listens to nothing less, and may take its time."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILLED_S)


def python(*arguments: str) -> list[str]:
    """The command that runs this interpreter."""
    return [sys.executable, *arguments]
