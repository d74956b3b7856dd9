"""How many threads compute and decode, and how threads that have nothing to do wait: chosen before torch is imported.

OpenMP reads its environment when its library is loaded, so the command line asks here first, before any import of torch.
torch's wheels for Linux bring GNU's libgomp, and fastlift's native kernels run on the same copy of it. Without a policy its
threads spin for milliseconds before they sleep; beside other work the one that is waited for then has no core. Threads that
sleep at once pay for waking at every small op. So they spin for some microseconds: ``GOMP_SPINCOUNT`` is libgomp's own;
``OMP_WAIT_POLICY`` is the standard's, which LLVM's and Intel's libraries read, and whose passive means no spinning. (libgomp
reads it only where there is no count; it does not know ``KMP_BLOCKTIME``.)

Milliseconds of a training step of the shipped model (batch 32, two threads on two cores, AMD EPYC, torch 2.14.1, medians of
9 alternated rounds), undisturbed by real-time priority, and with about ten other processes that compute:

    libgomp's own 57, 1579; 10,000 turns 51, 388; 1,000 turns 53, 106; passive 65, 84; one thread 78, 176
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from fastlift.system.machine.processor import cores, cpu_quota, cpus
from fastlift.system.machine.text import read

COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WAITING = (("GOMP_SPINCOUNT", "1000"), ("OMP_WAIT_POLICY", "PASSIVE"))
BY_USER = "set in the environment"
# Names the variables that fastlift set itself: they are no wish of the user's, here or in a child process.
CHOSEN = "FASTLIFT_CHOSE"
MOST_DECODING = 16


@dataclass(frozen=True)
class Threads:
    """What is chosen, and why.

    Attributes:
        compute: threads of torch and of the native kernels.
        decode: threads that decode images.
        wait: the wait policy, as ``VARIABLE=value`` ...
        compute_why, decode_why, wait_why: the reasons, in words.
        variables: of the wait policy, to be set; none where the user set one.
    """

    compute: int
    decode: int
    wait: str
    compute_why: str
    decode_why: str
    wait_why: str
    variables: tuple[tuple[str, str], ...]


def plan_threads(environ: Mapping[str, str] = os.environ) -> Threads:
    """The choice for this process, from its affinity, its quota, the processes of its run here, and what the user set."""
    compute, compute_why = _compute(environ)
    decode, decode_why = decode_threads(environ)
    given = next((name for name in POLICIES if _given(environ, name)), None)
    if given is not None:
        return Threads(compute, decode, f"{given}={environ[given]}", compute_why, decode_why, BY_USER, ())
    wait = ", ".join(f"{name}={value}" for name, value in WAITING)
    return Threads(
        compute, decode, wait, compute_why, decode_why, "they spin briefly, then leave cores to others", WAITING
    )


def prepare(environ: MutableMapping[str, str] = os.environ) -> Threads:
    """Put the choice into the environment, for the libraries that will be loaded; what the user set stays.

    Where torch is loaded already it would come too late, and the environment is left alone.
    """
    plan = plan_threads(environ)
    if "torch" in sys.modules:
        return plan
    chosen = {}
    if not any(_given(environ, name) for name in COUNTS):
        chosen["OMP_NUM_THREADS"] = str(plan.compute)
    chosen |= dict(plan.variables)
    environ.update(chosen)
    environ[CHOSEN] = " ".join(chosen)
    return plan


def _given(environ: Mapping[str, str], name: str) -> bool:
    """Whether the user set a variable, rather than fastlift or torchrun."""
    if not environ.get(name) or name in environ.get(CHOSEN, "").split():
        return False
    return not (name == "OMP_NUM_THREADS" and _by_torchrun(environ))


def _by_torchrun(environ: Mapping[str, str]) -> bool:
    """Whether OMP_NUM_THREADS is the 1 that torchrun sets where it is not set: then its own environment has none."""
    if environ["OMP_NUM_THREADS"] != "1" or "TORCHELASTIC_RUN_ID" not in environ:
        return False
    theirs = read(Path(f"/proc/{os.getppid()}/environ"))  # as it was when torchrun was started
    return bool(theirs) and not any(line.startswith("OMP_NUM_THREADS=") for line in theirs.split("\0"))


def local_processes(environ: Mapping[str, str] = os.environ) -> int:
    """Processes of this run on this machine, which share its cores: as torchrun tells."""
    told = environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(told)) if told.isascii() and told.isdigit() else 1


def _compute(environ: Mapping[str, str]) -> tuple[int, str]:
    """What the user set, else a thread for each core within the limits.

    Of 1.5 CPUs two threads get all and one gets two thirds; of 1.25 two would get little more than one does, and would
    wait for each other whenever the kernel stops one of them.
    """
    given = next((name for name in reversed(COUNTS) if _given(environ, name)), None)
    first = environ[given].split(",")[0].strip() if given else ""
    if first.isascii() and first.isdigit() and int(first) > 0:
        return int(first), f"{given}={environ[given or '']} is set"
    own, all_of_them = cores(), cpus()
    why = f"{own} cores" if own == all_of_them else f"{own} cores of {all_of_them} hardware threads"
    return _within_limits(own, why, local_processes(environ))


def decode_threads(environ: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """Threads for decoding where no number is given, and why: one for each hardware thread, 16 at most."""
    threads, why = _within_limits(cpus(), f"{cpus()} CPUs", local_processes(environ))
    return (threads, why) if threads <= MOST_DECODING else (MOST_DECODING, f"{why}; more than 16 do not pay")


def _within_limits(threads: int, why: str, shares: int) -> tuple[int, str]:
    """No more than the quota's whole CPUs, halves rounded up, shared by the processes of the run; 1 at least."""
    quota = cpu_quota()
    if quota is not None and int(quota + 0.5) < threads:
        threads, why = max(1, int(quota + 0.5)), f"a quota of {quota:g} CPUs"
    if shares > 1:
        threads, why = max(1, threads // shares), f"{why}, shared by {shares} processes"
    return threads, why
