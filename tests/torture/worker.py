"""A process that has imported everything, and forks a child for each command, with faults armed in it.

Started with ``faults.c`` preloaded; reads requests and writes answers, a line of JSON each. Forking saves the seconds that
importing torch takes, so that a hundred kills cost minutes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

EVERYTHING = (
    "torch.utils.tensorboard",
    "jinja2",
    "matplotlib.pyplot",
    "open_clip",
    "fastlift.training",
    "fastlift.grading",
    "fastlift.prediction",
    "fastlift.reporting.html",
    "fastlift.reporting.plots",
    "fastlift.commands.train",
    "fastlift.commands.evaluate",
    "fastlift.commands.predict",
    "fastlift.commands.report",
    "fastlift.commands.data",
    "fastlift.commands.export",
)


def main() -> None:
    """Answer requests until there are no more."""
    from importlib import import_module

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in EVERYTHING:
        import_module(module)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), file=answers, flush=True)


def _forked(request: dict[str, Any]) -> dict[str, Any]:
    """Run a command; send it a signal, or run another beside it, where the request says so."""
    child, beside = _fork(request), None
    if "after" in request:
        _wait_for(request["after"], child)
        if "signal" in request:
            os.kill(child, request["signal"])
        if "beside" in request:
            beside = _end_of(_fork(request | request["beside"]), request["timeout_s"])
        if "then" in request:  # in Python, on this side: the folder vanishes, say
            exec(request["then"], {})
    return {"code": _end_of(child, request["timeout_s"]), "beside": beside}


def _fork(request: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _child(request)
    return child


def _wait_for(after: float | str, child: int) -> None:
    """Seconds, or until a file is there (or the child has ended: it is not reaped here)."""
    if isinstance(after, float):
        time.sleep(after)
        return
    while not os.path.exists(after) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)


def _end_of(child: int, timeout_s: float) -> int | None:
    """Exit code, minus the number of a signal; None for a child that had to be ended."""
    deadline = time.monotonic() + timeout_s
    while (waited := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(waited[1])


def _child(request: dict[str, Any]) -> None:
    """Run one command and end; never returns."""
    code = 70
    try:
        with open(request["said"], "wb") as said, open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.environ |= request["environment"]
        os.chdir(request["working_folder"])
        from fastlift.cli import main as command

        faults = ctypes.CDLL(None)
        if "trace" in request:
            faults.faults_trace(os.open(request["trace"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        faults.faults_arm(request["folder"].encode(), *(request[key] for key in ("at", "action", "error", "lasting")))
        code = command(request["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        faults.faults_arm(b"", 0, 0, 0, 0)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
