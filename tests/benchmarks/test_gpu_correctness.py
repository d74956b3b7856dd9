"""The part that runs the GPU's tests: a row a test, whatever becomes of it, also of one that ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = """
import os, pytest
pytestmark = pytest.mark.gpu
def test_passes(): pass
def test_fails(): raise ValueError("planted")
@pytest.mark.skip(reason="nothing to do")
def test_skips(): pass
def test_ends_the_process(): os._exit(7)
def test_comes_after(): pass
"""
RUN = """
import sys, time
from pathlib import Path
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import HostClock
from benchmarks.gpu.machine import Rates
from benchmarks.gpu.parts import correctness
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import TOY
root = Path(sys.argv[1])
rates = Rates({}, 1.0, 1.0)
bench = Bench("correctness", TOY, False, HostClock(), rates, Rows(root / "rows.json", {"card": ""}), root, time.monotonic() + 100)
correctness.run(bench, root / "tests")
"""


def test_the_kernels_come_first(tmp_path: Path) -> None:
    """A budget that is cut keeps the beginning."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: runs on a GPU\n")
    passing = "import pytest\n@pytest.mark.gpu\ndef test_it(): pass\n"
    for folder in ("data", "kernels", "models"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}.py").write_text(passing)
    assert run(tmp_path) == 0
    found = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["name"].split("/")[1] for row in found] == ["kernels", "data", "models"]


def run(root: Path) -> int:
    return subprocess.run([sys.executable, "-c", RUN, str(root)], cwd=ROOT, capture_output=True, check=False).returncode


def test_every_test_is_a_row_also_one_that_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: runs on a GPU\n")
    (tmp_path / "tests" / "test_some.py").write_text(TESTS)
    (tmp_path / "tests" / "test_other.py").write_text("def test_of_the_cpu(): raise AssertionError('was run')\n")
    (tmp_path / "tests" / "test_absent.py").write_text("import tyro_is_missing_here\n")
    (tmp_path / "tests" / "test_package.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\")\n")

    def rows() -> dict[str, dict[str, object]]:
        found = json.loads((tmp_path / "rows.json").read_text())["rows"]
        assert len({row["name"] for row in found}) == len(found)
        return {row["name"].split("::")[-1]: row for row in found}

    assert run(tmp_path) == 7
    at = json.loads((tmp_path / "running.json").read_text())
    assert at["group"] == "tests/test_some.py::test_ends_the_process"
    before = rows()
    assert before["test_passes"]["outcome"] == "passed"
    assert "planted" in str(before["test_fails"]["error"])
    assert "nothing to do" in str(before["test_skips"]["skipped"])
    assert "tyro_is_missing_here" in str(before["tests/test_absent.py"]["error"])
    assert before["tests/test_package.py"]["skipped"] == "needs tyro, which is not installed"
    assert "test_of_the_cpu" not in before
    # what the parent does then: a row for the test that the process died of, and another process
    whole = json.loads((tmp_path / "rows.json").read_text())
    whole["rows"].append({"part": "correctness", "group": at["group"], "name": at["group"], "error": "exit 7"})
    (tmp_path / "rows.json").write_text(json.dumps(whole))
    assert run(tmp_path) == 0
    assert rows().keys() == before.keys() | {"test_ends_the_process", "test_comes_after"}
