"""How many threads, and how they wait: what is chosen, what the user set, and what a fresh process does with it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from fastlift.system.machine import threads
from fastlift.system.machine.threads import CHOSEN, plan_threads, prepare


def pretend(monkeypatch: pytest.MonkeyPatch, cores: int, cpus: int | None = None, quota: float | None = None) -> None:
    monkeypatch.setattr(threads, "cores", lambda: cores)
    monkeypatch.setattr(threads, "cpus", lambda: cpus or cores)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)


@pytest.mark.parametrize(
    ("machine", "environ", "compute", "decode", "why"),
    [
        ({"cores": 4}, {}, 4, 4, "4 cores"),
        ({"cores": 4, "cpus": 8}, {}, 4, 8, "4 cores of 8 hardware threads"),
        ({"cores": 64, "cpus": 128}, {}, 64, 16, "64 cores"),
        ({"cores": 64, "quota": 1.5}, {}, 2, 2, "a quota of 1.5 CPUs"),
        ({"cores": 64, "quota": 1.25}, {}, 1, 1, "a quota of 1.25 CPUs"),
        ({"cores": 64, "quota": 0.1}, {}, 1, 1, "a quota of 0.1 CPUs"),
        ({"cores": 2, "quota": 16.0}, {}, 2, 2, "2 cores"),
        ({"cores": 16}, {"LOCAL_WORLD_SIZE": "4"}, 4, 4, "16 cores, shared by 4 processes"),
        ({"cores": 2}, {"LOCAL_WORLD_SIZE": "4"}, 1, 1, "2 cores, shared by 4 processes"),
        ({"cores": 16, "quota": 8.0}, {"LOCAL_WORLD_SIZE": "2"}, 4, 4, "a quota of 8 CPUs, shared by 2 processes"),
        ({"cores": 16}, {"OMP_NUM_THREADS": "3"}, 3, 16, "OMP_NUM_THREADS=3 is set"),
        ({"cores": 16}, {"OMP_NUM_THREADS": "3,2"}, 3, 16, "OMP_NUM_THREADS=3,2 is set"),
        ({"cores": 16}, {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "5"}, 5, 16, "MKL_NUM_THREADS=5 is set"),
        ({"cores": 16}, {"OMP_NUM_THREADS": "nonsense"}, 16, 16, "16 cores"),
    ],
)
def test_numbers(
    monkeypatch: pytest.MonkeyPatch, machine: Any, environ: dict[str, str], compute: int, decode: int, why: str
) -> None:
    pretend(monkeypatch, **machine)
    plan = plan_threads(environ)
    assert (plan.compute, plan.decode) == (compute, decode)
    assert plan.compute_why.startswith(why)


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    for name, value in (("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "1000"), ("KMP_BLOCKTIME", "1")):
        environ = {name: value, "OMP_NUM_THREADS": "7"}
        assert prepare(environ).wait == f"{name}={value}"
        assert environ == {name: value, "OMP_NUM_THREADS": "7", CHOSEN: ""}


def test_what_is_chosen_is_no_wish_of_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the command starts, or the doctor in the same one, sees who chose, and chooses by itself."""
    monkeypatch.delitem(sys.modules, "torch")
    pretend(monkeypatch, 4)
    environ: dict[str, str] = {}
    first = prepare(environ)
    names = "OMP_NUM_THREADS GOMP_SPINCOUNT OMP_WAIT_POLICY"
    assert environ == {"OMP_NUM_THREADS": "4", "GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "PASSIVE", CHOSEN: names}
    assert plan_threads(environ) == first
    pretend(monkeypatch, 8)
    assert prepare(environ).compute == 8
    assert environ["OMP_NUM_THREADS"] == "8"


def test_too_late_once_torch_is_there() -> None:
    environ: dict[str, str] = {}
    prepare(environ)
    assert environ == {}


@pytest.mark.parametrize(
    ("parent", "compute", "why"),
    [
        (b"PATH=/bin\0HOME=/root\0", 4, "8 cores, shared by 2 processes"),  # torchrun's own default
        (b"PATH=/bin\0OMP_NUM_THREADS=1\0", 1, "OMP_NUM_THREADS=1 is set"),  # the user gave it to torchrun
        (b"", 1, "OMP_NUM_THREADS=1 is set"),  # nobody can tell
    ],
)
def test_torchrun_s_default_of_one_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, parent: bytes, compute: int, why: str
) -> None:
    pretend(monkeypatch, 8)
    (tmp_path / "environ").write_bytes(parent)
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / "environ")
    plan = plan_threads({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"})
    assert (plan.compute, plan.compute_why) == (compute, why)


def test_the_command_computes_and_waits_as_chosen() -> None:
    """In a process of its own: libgomp itself says, when it is loaded, which policy it took."""
    environ = {name: value for name, value in os.environ.items() if name not in (*threads.COUNTS, *threads.POLICIES)}
    code = (
        "import sys; from fastlift.cli import main; import fastlift.system.machine.threads as t; assert 'torch' not in sys.modules;"
        "t.cores = lambda: 1; t.cpu_quota = lambda: None; main(['doctor', '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cpu"]["threads"] == 1
    assert found["choices"]["threads"]["value"] == "1"
    assert found["choices"]["wait"]["value"] == "GOMP_SPINCOUNT=1000, OMP_WAIT_POLICY=PASSIVE"
    shown = done.stderr.replace("[host] ", "")
    if "GOMP_SPINCOUNT" in shown:  # libgomp; other OpenMP libraries show their environment in other words
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown
        assert "GOMP_SPINCOUNT = '1000'" in shown
    assert [line for line in done.stderr.splitlines() if "Warning" in line] == []
