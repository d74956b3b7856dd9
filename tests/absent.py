"""Packages that a machine with a GPU may lack: what needs one is skipped there, with the reason, instead of ending the run.

A plugin of pytest. Where the package is installed, as in every environment that this project makes, nothing is skipped.
"""

import importlib.util
import re
from collections.abc import Generator
from typing import Any

import pytest

MAY_BE_ABSENT = ("open_clip", "tyro", "simplejpeg", "nvidia")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that cannot be imported for it."""
    report = yield
    if report.failed and isinstance(collector, pytest.Module):
        _skip(report, str(report.longrepr), str(collector.path), 0)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that meets it on its way."""
    report = yield
    if report.failed and call.excinfo is not None and isinstance(call.excinfo.value, ModuleNotFoundError):
        _skip(report, str(call.excinfo.value), str(item.path), item.location[1] or 0)
    return report


def _skip(report: Any, told: str, path: str, line: int) -> None:
    named = re.search(rf"No module named '({'|'.join(MAY_BE_ABSENT)})['.]", told)
    if named is not None and importlib.util.find_spec(named[1]) is None:
        report.outcome = "skipped"
        report.longrepr = (path, line, f"Skipped: needs {named[1]}, which is not installed")
