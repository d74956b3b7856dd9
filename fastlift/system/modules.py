"""Modules of fastlift as processes of their own, which never import the caller's script again, as ``multiprocessing`` would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def start_module(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start ``python -m name`` with this very package, wherever the caller found it; stdin and stdout are pipes.

    A signal for the caller's group is not the new process's: it has to see for itself that the caller has gone.

    Raises:
        OSError: no more processes, or memory.
    """
    package = Path(__file__).parents[2]
    search = os.pathsep.join(filter(None, [os.fspath(package), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
        start_new_session=True,
    )
