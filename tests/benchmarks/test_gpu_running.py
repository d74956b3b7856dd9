"""A run of ``benchmarks.gpu``: a part that hangs, dies or has no time left costs itself alone, and is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import running
from benchmarks.gpu.plan import PARTS, SUMMARY, part_named, rows_file
from benchmarks.gpu.running import Runner
from fastlift.errors import UserError

ROOT = Path(__file__).parents[2]
HEAD = {"card": "made up", "rates": {"products_tflops": {"square": 1.0}, "vit_tflops": 1.0, "copy_tb_per_s": 1.0}}
# What a part's process does in these tests: ``row(name)`` keeps a row, ``at(group, limit)`` tells what it is at.
PROLOGUE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from benchmarks.gpu.rows import Rows
folder, scratch, part, file = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
rows = Rows(file, {"card": "made up"})
def row(name):
    rows.add({"part": part, "group": name, "name": name})
def done(name):
    return any(row["group"] == name for row in rows.of(part))
def at(group, limit=100.0):
    (scratch / "running.json").write_text(json.dumps({"group": group, "limit_s": limit, "since": time.monotonic()}))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs parts whose processes do what the given code says; the summary."""
    monkeypatch.setattr(running, "LEAST_S", 0.2)

    def started(codes: dict[str, str], limit_s: float = 60.0, budget_s: float = 120.0) -> dict[str, Any]:
        folder, scratch = tmp_path / "out", tmp_path / "scratch"
        for path in (folder, scratch):
            path.mkdir()

        def command(what: str, seconds: float) -> list[str]:
            if what == "card":
                return [sys.executable, "-c", f"open({str(scratch / 'card.json')!r}, 'w').write({json.dumps(HEAD)!r})"]
            words = [str(folder), str(scratch), what, str(rows_file(folder, part_named(what)))]
            return [sys.executable, "-c", PROLOGUE + codes[what], *words]

        runner = Runner(folder, scratch, budget_s, True, command)
        told = runner([replace(part_named(name), limit_s=limit_s) for name in codes])
        assert json.loads((folder / SUMMARY).read_text()) == told
        return told

    return started


def names(tmp_path: Path, part: str) -> list[str]:
    path = rows_file(tmp_path / "out", part_named(part))
    return [row["name"] for row in json.loads(path.read_text())["rows"] if row["part"] == part]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_that_hangs_is_ended_with_its_children_and_the_next_one_runs(run: Any, tmp_path: Path) -> None:
    hang = """
row("before")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder.parent / "child.txt").write_text(str(child.pid))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
    told = run({"ops": hang, "data": 'row("after")'}, limit_s=4.0)
    assert told["parts"]["ops"]["state"] == "ended"
    assert told["parts"]["ops"]["why"] == "its 4 s were over"
    assert told["parts"]["data"]["state"] == "done"
    assert names(tmp_path, "ops") == ["before"]
    assert names(tmp_path, "data") == ["after"]
    assert not is_alive(int((tmp_path / "child.txt").read_text()))


def test_a_part_that_fails_at_once_leaves_the_others(run: Any, tmp_path: Path) -> None:
    told = run({"ops": 'raise ValueError("no such thing")', "data": 'row("after")'})
    assert told["parts"]["ops"]["state"] == "failed"
    assert "no such thing" in told["parts"]["ops"]["stderr"]
    assert told["parts"]["data"] | {"seconds": 0} == {
        "state": "done", "why": "", "seconds": 0, "rows": 1, "rows_skipped": 0, "rows_failed": 0, "skipped": [],
        "failed": [], "nvidia_smi": {},
    }  # fmt: skip


def test_a_process_that_dies_over_a_row_is_begun_again_without_it(run: Any, tmp_path: Path) -> None:
    dies = """
for name in ("one", "two", "three"):
    if done(name):
        continue
    at(name)
    if name == "two":
        os.kill(os.getpid(), signal.SIGSEGV)
    row(name)
(scratch / "running.json").unlink()
"""
    told = run({"ops": dies})
    assert names(tmp_path, "ops") == ["one", "two", "three"]
    assert told["parts"]["ops"]["state"] == "failed"
    assert told["parts"]["ops"]["failed"] == ["two: signal 11 ended its process"]


def test_a_row_that_takes_too_long_is_ended_and_the_rest_of_its_part_goes_on(run: Any, tmp_path: Path) -> None:
    stuck = """
if not done("stuck"):
    at("stuck", 1.0)
    time.sleep(600)
row("next")
(scratch / "running.json").unlink(missing_ok=True)
"""
    told = run({"ops": stuck})
    assert told["parts"]["ops"]["failed"] == ["stuck: stuck took more than its 1 s"]
    assert names(tmp_path, "ops") == ["stuck", "next"]
    assert told["parts"]["ops"]["seconds"] < 30


def test_what_the_budget_does_not_reach_is_named(run: Any) -> None:
    told = run({"ops": "time.sleep(600)", "data": 'row("never")', "train": 'row("never")'}, budget_s=3.0)
    assert told["parts"]["ops"]["state"] == "ended"  # at what was left, which is less than its own limit
    for name in ("data", "train"):
        assert told["parts"][name]["state"] == "not run"
        assert told["parts"][name]["why"] == "the budget of 3 s was used up before it"


def test_parts_with_one_file_keep_each_others_rows(run: Any, tmp_path: Path) -> None:
    assert part_named("ops").file == part_named("attention").file
    run({"ops": 'row("a")', "attention": 'row("b")'})
    assert (names(tmp_path, "ops"), names(tmp_path, "attention")) == (["a"], ["b"])


def test_no_card_is_one_sentence(tmp_path: Path) -> None:
    def command(what: str, seconds: float) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('no GPU is here')"]

    with pytest.raises(UserError, match="the card could not be asked: no GPU is here"):
        Runner(tmp_path, tmp_path, 60.0, False, command)(PARTS)


def test_a_run_that_is_stopped_keeps_its_rows_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--part", "attention", "--output", str(tmp_path)]
    stopped = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert stopped.stdout is not None
    stopped.stdout.readline()  # a row is there
    children = Path(f"/proc/{stopped.pid}/task/{stopped.pid}/children").read_text().split()
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 130
    told = json.loads((tmp_path / SUMMARY).read_text())
    assert told["parts"]["attention"]["why"] == "the whole run was stopped"
    assert json.loads((tmp_path / "ops.json").read_text())["rows"]
    assert children
    for _ in range(50):
        if not any(is_alive(int(pid)) for pid in children):
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {children}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--output FOLDER is needed"),
        (["--rehearse", "--part", "nothing"], "invalid choice"),
        (["--rehearse", "--budget", "0"], "expected seconds"),
    ],
)
def test_wrong_use(arguments: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert told in done.stderr


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text("{}")
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "holds the results of an earlier run" in done.stderr
    assert (tmp_path / "step.json").read_text() == "{}"


def test_what_every_part_needs_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.gpu.__main__ import main

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--output", str(tmp_path / "new"), "--part", "ops"]) == 2
    assert "msgspec is not installed" in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("*"))


def test_list_tells_every_part_with_its_limit() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--list"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0::3][:2] for line in told] == [[part.name, f"{part.limit_s:.0f}"] for part in PARTS]


def test_a_budget_is_shared_out() -> None:
    """With enough of it every part gets its limit; with less, later ones keep their least; with little, the first gets it."""

    def shares(left: float) -> list[float]:
        found = []
        for index, part in enumerate(PARTS):
            found.append(running.share(part, list(PARTS[index + 1 :]), left))
            left -= found[-1]
        return found

    assert shares(5000.0) == [part.limit_s for part in PARTS]
    least = [part.least_s for part in PARTS]
    assert shares(sum(least)) == least
    assert all(share >= part.least_s for share, part in zip(shares(300.0), PARTS, strict=True))
    assert sum(shares(300.0)) == 300.0
    assert shares(20.0) == [20.0] + [0.0] * (len(PARTS) - 1)
