"""Two processes cannot write in one run folder, and a process that died holds nothing."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import refuses

from fastlift.runs.claims import Claim, InUse, claimed


def silent(message: str) -> None:
    raise AssertionError(message)


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    with claimed(tmp_path / "run", silent):
        with pytest.raises(InUse, match=rf"run is in use by process {os.getpid()} on .+ \(since 2.+\)"):
            Claim(tmp_path / "run", silent).take()
        with claimed(tmp_path / "other", silent):
            pass
    with claimed(tmp_path / "run", silent) as again:
        again.take()


def test_a_claim_that_was_not_taken_makes_nothing(tmp_path: Path) -> None:
    with Claim(tmp_path / "run", silent):
        pass
    assert not (tmp_path / "run").exists()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """Killed in the middle of a write: nobody is kept out, and the half-written file goes."""
    code = (
        "import sys, time, pathlib, fastlift.runs.claims as c, fastlift.system.files as f\n"
        "run = pathlib.Path(sys.argv[1])\n"
        "with c.claimed(run, print):\n"
        "    def write(part):\n"
        "        part.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "    f.write_atomically(run / 'config.json', write)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    with pytest.raises(InUse, match=f"process {process.pid} on"):
        Claim(tmp_path, silent).take()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(os.listdir(tmp_path)) == 2
    with claimed(tmp_path, silent):
        assert os.listdir(tmp_path) == [".lock"]


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refuses(errno.ENOLCK))
    told: list[str] = []
    with claimed(tmp_path, told.append):
        assert len(told) == 1
        assert "no locks" in told[0]


@pytest.mark.parametrize("text", ["", "{", '{"pid": "x"}', '{"pid": 1}', "[1]", '{"pid": ' + "9" * 400 + "}"])
def test_a_lock_that_says_nothing_of_use(text: str, tmp_path: Path) -> None:
    with claimed(tmp_path, silent):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(InUse, match="in use by another process"):
            Claim(tmp_path, silent).take()


def test_waiting_for_a_short_one(tmp_path: Path) -> None:
    with claimed(tmp_path, silent), pytest.raises(InUse):
        Claim(tmp_path, silent).take(wait=0.25)
