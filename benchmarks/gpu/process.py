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
KEPT_CHARACTERS = 2000  # of what a process wrote to stderr


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (negative: the signal), why it was ended (empty: by itself), its last words."""

    status: int
    why: str
    words: str


def environment(scratch: Path) -> dict[str, str]:
    """The variables of a part's process: packages of this checkout are found, whether they are installed or not.

    ``fastlift_kernels`` lies in the folder ``kernels``; where it is not installed, a link of its name is made.
    """
    paths = [str(ROOT)]
    if importlib.util.find_spec("fastlift_kernels") is None:
        links = scratch / "packages"
        links.mkdir(exist_ok=True)
        if not (links / "fastlift_kernels").exists():
            (links / "fastlift_kernels").symlink_to(ROOT / "kernels")
        paths.append(str(links))
    inherited = os.environ.get("PYTHONPATH")
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths + ([inherited] if inherited else []))}
    return found | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def run(command: list[str], scratch: Path, must_end: Callable[[], str]) -> Ended:
    """Run ``command`` in a process group of its own until it ends or ``must_end`` gives a reason to end it.

    What it prints is printed; what it writes to stderr is kept, and its end is given back.
    """
    errors = scratch / "stderr.txt"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(scratch), stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True
        )
    why = ""
    try:
        while process.poll() is None:
            if why := must_end():
                break
            time.sleep(POLL_S)
    finally:  # also where this process is asked to stop
        kill_group(process)
    return Ended(process.wait(), why, errors.read_bytes()[-KEPT_CHARACTERS:].decode(errors="replace"))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: what hangs in a driver listens to nothing less."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def python(*arguments: str) -> list[str]:
    """The command that runs this interpreter."""
    return [sys.executable, *arguments]
