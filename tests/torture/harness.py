"""Commands with faults in them, from a test: start them, hurt them, look at what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

KILL, TEAR, FAIL = 0, 1, 2
UNMOUNTING_S = 20.0
UNTRIED = "untried"  # what a case says whose command had ended before anything could be done to it
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


@dataclass(frozen=True)
class Fault:
    """What happens at call number ``at`` (from 1) of those that change files; 0: nothing."""

    at: int = 0
    action: int = KILL
    error: int = 0
    lasting: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (minus the signal that killed it, None where it hung), and what it said."""

    code: int | None
    said: str
    beside: Ended | None = None

    @property
    def killed(self) -> bool:
        return self.code == -9


def build_faults(folder: Path) -> Path:
    """Compile ``faults.c``.

    Raises:
        RuntimeError: there is no C compiler, or it refuses.
    """
    library = folder / "faults.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler")
    subprocess.run([compiler, "-O2", "-fPIC", "-shared", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return library


def own_mounts() -> list[str]:
    """Words before a command that give it mounts of its own; none where this machine does not allow it."""
    for words in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        try:
            tried = subprocess.run([*words, "mount", "-t", "tmpfs", "fastlift", HERE], capture_output=True)
        except OSError:
            return []
        if tried.returncode == 0:
            return words
    return []


class Commands:
    """Runs ``fastlift`` commands in forked children, whose writes under ``folder`` can be hurt.

    Args:
        folder: where the commands write; also their working folder.
        cache: their cache folder, outside of ``folder`` unless faults shall reach it.

    Attributes:
        folder: the same as seen from here: what is mounted on it is seen by the children alone.
        mounts: whether something can be mounted on it.
    """

    def __init__(self, folder: Path, cache: Path, library: Path) -> None:
        self._inside, self._cache, self._said = folder, cache, folder.parent / "said.txt"
        environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONUNBUFFERED", None)  # users' output is buffered
        apart = own_mounts()
        self.mounts = bool(apart)
        self._worker = subprocess.Popen(
            [*apart, sys.executable, HERE / "worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._worker.stdout is not None
        if self._worker.stdout.readline() != "ready\n":
            raise RuntimeError("the worker did not start")
        # unshare becomes the program that it starts, so this is the worker's number
        self.folder = Path(f"/proc/{self._worker.pid}/root{folder}") if apart else folder

    def __enter__(self) -> Commands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait(30)

    def run(self, *arguments: str, fault: Fault = Fault(), trace: Path | None = None, **more: Any) -> Ended:
        """One command to its end.

        Args:
            arguments: of ``fastlift``.
            fault: what happens to its writes.
            trace: where to list them.
            more: ``after`` (seconds, or a path to wait for) with ``signal``, ``beside`` (another command's ``arguments`` and
                ``said``) or ``then`` (Python source); ``limits`` (names and values of RLIMITs), ``output`` (a file in
                the folder for what goes to stdout), ``cache`` (a folder in the folder).
        """
        cache = self._inside / more.pop("cache") if "cache" in more else self._cache
        request = {
            "arguments": list(arguments),
            "folder": str(self._inside),
            "working_folder": str(self._inside),
            "environment": {"FASTLIFT_CACHE": str(cache)},
            "said": str(self._said),
            "at": fault.at,
            "action": fault.action,
            "error": fault.error,
            "lasting": int(fault.lasting),
            "timeout_s": 120,
            **({} if trace is None else {"trace": str(trace)}),
            **more,
        }
        answer = self._ask(request)
        beside = None
        if "beside" in more:
            beside = Ended(answer["beside"], Path(more["beside"]["said"]).read_text(errors="replace"))
        if answer["then"]:
            raise RuntimeError(f"what was to be done to it failed: {answer['then']}")
        return Ended(answer["code"], self._said.read_text(errors="replace"), beside)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps(request) + "\n")
        self._worker.stdin.flush()
        answer: dict[str, Any] = json.loads(self._worker.stdout.readline())
        return answer

    def administer(self, *words: str, fine: tuple[int, ...] = (0,)) -> None:
        """Run a program where the children's mounts are, such as mount; FOLDER and IMAGE among the words become paths.

        Raises:
            RuntimeError: it ended with a code that is not fine.
        """
        answer = self._ask({"administer": self.named(*words)})
        deadline = time.monotonic() + UNMOUNTING_S  # what a command had started may end a moment after it
        while words[0] == "umount" and answer["code"] not in fine and time.monotonic() < deadline:
            time.sleep(0.1)
            answer = self._ask({"administer": self.named(*words)})
        if answer["code"] not in fine:
            raise RuntimeError(f"{' '.join(words)} ended with {answer['code']}: {answer['said']}")

    def named(self, *words: str) -> list[str]:
        """The words with the paths of the folder and of a disk's image, as the children see them."""
        image = str(self._said.with_name("disk.img"))
        return [word.replace("FOLDER", str(self._inside)).replace("IMAGE", image) for word in words]

    def beside(self, first: tuple[str, ...], second: tuple[str, ...], after: Path) -> Ended:
        """Two commands at once: the second starts when ``after`` is there."""
        said = self._said.with_name("beside.txt")
        return self.run(*first, after=str(after), beside={"arguments": list(second), "said": str(said)})

    def calls(self, *arguments: str, **more: Any) -> list[str]:
        """Names and paths of the calls by which a command that is left alone changes files; ``more`` as ``run``."""
        trace = self._said.with_name("trace.txt")
        ended = self.run(*arguments, trace=trace, **more)
        if ended.code != 0:
            raise RuntimeError(f"{' '.join(arguments)} ended with {ended.code}: {ended.said}")
        return trace.read_text().splitlines()
