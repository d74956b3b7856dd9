"""Every part of ``benchmarks.gpu``, at toy size on the CPU, as ``--rehearse`` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.plan import NAMES, SUMMARY, part_named, rows_file

ROOT = Path(__file__).parents[2]
# What each part must have measured; the rest of its rows may be skipped where a kernel or a package is not there.
MEASURED = {
    "correctness": {"outcome"},
    "ops": {"ms", "host_ms", "quartiles_ms"},
    "step": {"ms", "images_per_s", "share_of_matrix", "loss", "first_step_s"},
    "widths": {"ms", "images_per_s", "loss", "tokens"},
    "attention": {"ms", "share_of_matrix", "share_of_copy"},
    "mlp": {"ms", "tflop_per_s", "share_of_copy"},
    "fp8": {"ms", "share_of_copy"},
    "evaluation": {"ms", "images_per_s", "times_training"},
    "data": {"images_per_s", "cpu_ms_per_image", "launching_thread_ms_per_image"},
    "train": {"images_per_s", "data_wait_share", "train_s", "evaluate_s"},
    "kernels": {"ms", "launches", "share_of_step"},
}


def rehearse(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """(exit status, summary, what was printed)."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--output", str(folder), *arguments]
    threads = {"OMP_NUM_THREADS": "1"} if "PYTEST_XDIST_WORKER" in os.environ else {}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, check=False)
    return done.returncode, json.loads((folder / SUMMARY).read_text()), done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_part_runs(name: str, tmp_path: Path) -> None:
    status, summary, printed = rehearse(tmp_path, "--part", name)
    assert status == 0, printed
    assert summary["parts"][name]["state"] == "done"
    assert summary["head"]["rates"]["vit_tflops"] > 0
    kept = json.loads(rows_file(tmp_path, part_named(name)).read_text())
    assert kept["is_rehearsal"] is True
    measured = [row for row in kept["rows"] if MEASURED[name] <= row.keys()]
    assert len(measured) >= 1
    assert all("skipped" in row or MEASURED[name] & row.keys() or "note" in row for row in kept["rows"])
    assert {row["part"] for row in kept["rows"]} == {name}
    for row in kept["rows"]:
        assert row["name"] in printed
    files = list(tmp_path.iterdir())
    assert {file.name for file in files} == {SUMMARY, f"{part_named(name).file}.json"}
    assert all(file.stat().st_size < 10**6 for file in files)


def test_all_parts_together_leave_eight_small_files() -> None:
    assert len({part_named(name).file for name in NAMES}) + 1 <= 8


def test_a_part_that_fails_fails_the_rehearsal(tmp_path: Path) -> None:
    """A fault is planted where every step passes by: the part that meets it is named, and the exit status tells."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Fault:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'benchmarks.gpu.parts.evaluation':\n"
        "            raise ImportError('planted')\n"
        "sys.meta_path.insert(0, Fault())\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--output", str(out), "--part", "evaluation"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not right: evaluation" in done.stderr
    assert "planted" in json.loads((out / SUMMARY).read_text())["parts"]["evaluation"]["stderr"]
