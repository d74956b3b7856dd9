"""``fastlift serve`` in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Server:
    """A server's process, and where it answers."""

    process: subprocess.Popen[str]
    url: str


@contextmanager
def serving(run: Path, *flags: str) -> Iterator[Server]:
    """``fastlift serve`` as long as the ``with`` statement lasts, or until the test ends it."""
    command = [sys.executable, "-m", "fastlift", "serve", str(run), "--port", "0", "--device", "cpu", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"run at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
            assert found, line + (process.stderr.read() if process.stderr else "")
            yield Server(process, found[1])
        finally:
            process.kill()
