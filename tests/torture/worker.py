"""A process that has imported everything, and forks a child for each command, with faults armed in it.

Started with ``faults.c`` preloaded; reads requests and writes answers, a line of JSON each. Forking saves the seconds that
importing torch takes, so that a hundred kills cost minutes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

EVERYTHING = (
    "torch.utils.tensorboard",
    "jinja2",
    "matplotlib.pyplot",
    "open_clip",
    "fastlift.engine.train",
    "fastlift.engine.evaluate",
    "fastlift.evaluation.predict",
    "fastlift.reporting.html",
    "fastlift.reporting.plots",
    "fastlift.commands.train",
    "fastlift.commands.evaluate",
    "fastlift.commands.predict",
    "fastlift.commands.report",
    "fastlift.commands.data",
    "fastlift.commands.export",
    "fastlift.commands.import_lift",
    "fastlift.interop.export",
    "fastlift.interop.adapters",
)
WHERE_INSTALLED = ("onnxscript", "onnxruntime", "timm")


def main() -> None:
    """Answer requests until there are no more."""
    from importlib import import_module

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in EVERYTHING:
        import_module(module)
    for module in WHERE_INSTALLED:
        with suppress(ImportError):
            import_module(module)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _administered(request["administer"]) if "administer" in request else _forked(request)
        print(json.dumps(answer), file=answers, flush=True)


def _administered(words: list[str]) -> dict[str, Any]:
    """A program to its end, in this process's place among the mounts; the faults are not preloaded."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    try:
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    except OSError as error:
        return {"code": 127, "said": str(error)}
    return {"code": ended.returncode, "said": ended.stdout + ended.stderr}


def _forked(request: dict[str, Any]) -> dict[str, Any]:
    """Run a command; send it a signal, or run another beside it, where the request says so."""
    child, beside, failed = _Child(request), None, ""
    if "after" in request:
        child.wait_for(request["after"])
        if "signal" in request:
            os.kill(child.number, request["signal"])
        if "beside" in request:
            beside = _Child(request | request["beside"]).end(request["timeout_s"])
        if "then" in request:  # in Python, on this side: the folder vanishes, say
            try:
                exec(request["then"], {})
            except Exception as error:
                failed = str(error)
    return {"code": child.end(request["timeout_s"]), "beside": beside, "then": failed}


class _Child:
    """A forked process with a command. What it says comes through a pipe: a limit on the size of files is none on it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._said, heard = request["said"], os.pipe()
        self._parts: list[bytes] = []
        self.number = os.fork()
        if self.number == 0:
            os.close(heard[0])
            _become(request, heard[1])
        os.close(heard[1])
        self._heard = heard[0]
        os.set_blocking(self._heard, False)

    def wait_for(self, after: float | str) -> None:
        """Seconds, or until a file is there (or the child has ended: it is not reaped here)."""
        if isinstance(after, float):
            time.sleep(after)
            return
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not os.path.exists(after) and os.waitid(os.P_PID, self.number, ended) is None:
            time.sleep(0.002)

    def end(self, timeout_s: float) -> int | None:
        """Exit code, minus the number of a signal; None for a child that had to be ended."""
        deadline = time.monotonic() + timeout_s
        code: int | None = None
        while (waited := os.waitpid(self.number, os.WNOHANG)) == (0, 0):
            self._listen()
            if time.monotonic() > deadline:
                os.kill(self.number, signal.SIGKILL)
                os.waitpid(self.number, 0)
                break
            time.sleep(0.005)
        else:
            code = os.waitstatus_to_exitcode(waited[1])
        self._listen()
        os.close(self._heard)
        with open(self._said, "wb") as file:
            file.write(b"".join(self._parts))
        return code

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while part := os.read(self._heard, 65536):
                self._parts.append(part)


def _become(request: dict[str, Any], heard: int) -> None:
    """Run one command and end as a process of its own would; never returns."""
    code, faults = 70, ctypes.CDLL(None)
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, place in ((nothing, 0), (heard, 1), (heard, 2)):
            os.dup2(descriptor, place)
        os.close(nothing)
        os.close(heard)
        os.environ |= request["environment"]
        os.chdir(request["working_folder"])
        if "trace" in request:
            faults.faults_trace(os.open(request["trace"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        faults.faults_arm(request["folder"].encode(), *(request[key] for key in ("at", "action", "error", "lasting")))
        if "output" in request and not _redirected(request["output"]):
            os._exit(1)
        _limit(request.get("limits", {}))
        code = _run(request["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    faults.faults_arm(b"", 0, 0, 0, 0)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = 120  # as Python ends
    os._exit(code)


def _redirected(output: str) -> bool:
    """As a shell does for > FILE: where that cannot be opened, nothing is started."""
    try:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
    except OSError as error:
        os.write(2, f"cannot create {output}: {error.strerror}\n".encode())
        return False
    return True


def _run(arguments: list[str]) -> int:
    if arguments[0] == "python":  # what has no command: a program's own few lines
        try:
            exec(arguments[1], {})
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    from fastlift.cli import main as command

    return command(arguments)


def _limit(limits: dict[str, int]) -> None:
    """Resource limits of this process; NOFILE counts above what is open, NPROC threads beside this one."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        if name == "NOFILE":
            value += 1 + max(int(found) for found in os.listdir("/proc/self/fd"))
        if name == "NPROC":
            value += 1
            _become_another_user()
        resource.setrlimit(number, (value, value))


def _become_another_user() -> None:
    """One who runs nothing else, whose threads are limited, as root's are not; files are still open to him as to root."""
    libc = ctypes.CDLL(None, use_errno=True)
    files = sum(1 << capability for capability in (0, 1, 3))  # CHOWN, DAC_OVERRIDE, FOWNER
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresuid(*[ANOTHER_USER] * 3)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)(files, files, 0, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), "capset")


ANOTHER_USER = 61_913


if __name__ == "__main__":
    main()
