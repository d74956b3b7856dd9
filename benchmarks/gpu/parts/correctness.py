"""``pytest -m gpu``: every test that runs on a GPU, one row a test; a test that ends the process is named, the rest go on."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.documents import ROOT
from benchmarks.gpu.bench import Bench, Broken
from benchmarks.gpu.rows import Row

TEST_LIMIT_S = 120.0
FIRST = "tests/kernels/"  # what no machine without a GPU can run: a budget that is cut keeps the beginning
REHEARSED = "tests/evaluation/test_metrics.py"  # runs on the CPU in a rehearsal; the GPU's tests are skipped there, with the reason
ABSENT = ("tyro", "open_clip", "nvidia", "simplejpeg")  # packages that a GPU machine may lack


def run(bench: Bench, tests: Path = ROOT / "tests") -> None:
    """All tests in this process."""
    if importlib.util.find_spec("pytest") is None:
        bench.add("pytest", {"name": "pytest", "skipped": "pytest is not installed"})
        return
    import pytest

    # In their order: a budget that is cut keeps the beginning, and what ends a process is left out by the next.
    options = ["-q", "-p", "no:randomly", "--continue-on-collection-errors", "--rootdir", str(tests.parent), str(tests)]
    watch = Watch(bench)
    status = pytest.main(options, plugins=[watch])
    if watch.broken is not None:
        raise watch.broken
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        watch.note("pytest", f"pytest ended with {status!r}")
    if not bench.rows.of(bench.part):
        bench.add("pytest", {"name": "pytest", "skipped": "no test is marked gpu"})


class Watch:
    """A pytest plugin that makes a row of each test, and leaves out what an earlier process of this part came to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._at_work = ExitStack()
        self._outcomes: dict[str, Row] = {}
        self._session: Any = None
        self.broken: Broken | None = None

    def pytest_sessionstart(self, session: Any) -> None:
        self._session = session
        session.config.pluginmanager.unregister(name="terminalreporter")  # rows are printed instead

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        wanted = [item for item in items if self._is_wanted(item) and not self.bench.is_done(item.nodeid)]
        items[:] = sorted(wanted, key=lambda item: not item.nodeid.startswith(FIRST))

    def _is_wanted(self, item: Any) -> bool:
        is_rehearsed = self.bench.is_rehearsal and item.nodeid.startswith(REHEARSED)
        return is_rehearsed or item.get_closest_marker("gpu") is not None

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.bench.is_done(report.nodeid):
            told = _reason(report.longrepr)
            absent = re.search(rf"No module named '({'|'.join(ABSENT)})['.]", told)
            row: Row = {"skipped": f"needs {absent[1]}, which is not installed"} if absent else {"error": told}
            self.bench.add(report.nodeid, {"name": report.nodeid, **row})

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self._at_work.enter_context(self.bench.at_work(nodeid, TEST_LIMIT_S))
        self._outcomes[nodeid] = {"name": nodeid, "outcome": "passed", "seconds": 0.0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        row = self._outcomes[report.nodeid]
        row["seconds"] = round(row["seconds"] + report.duration, 3)
        if report.failed:
            row["error"] = _reason(report.longrepr)
            print(report.longreprtext, file=sys.stderr)
        elif report.skipped:
            row["skipped"] = (
                str(report.longrepr[-1])[:200] if isinstance(report.longrepr, tuple) else "expected to fail"
            )

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self._at_work.close()
        row = self._outcomes.pop(nodeid)
        if "error" in row or "skipped" in row:
            del row["outcome"]
        self.bench.add(nodeid, row)
        if "error" in row:
            try:
                self.bench.check_device()
            except Broken as broken:  # pytest would take it for a fault of its own
                self.broken, self._session.shouldstop = broken, "the device answers no more"

    def note(self, group: str, told: str) -> None:
        """A row for what is no test's."""
        if not self.bench.is_done(group):
            self.bench.add(group, {"name": group, "error": told})


def _reason(longrepr: Any) -> str:
    """The first line of what failed, or the last one where pytest gives a text alone."""
    crash = getattr(longrepr, "reprcrash", None)
    told = crash.message.strip().splitlines()[:1] if crash else str(longrepr).strip().splitlines()[-1:]
    return " ".join(told)[:300]
