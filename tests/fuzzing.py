"""How property tests draw: the same few examples in every `make test`, new ones for as long as asked in `make fuzz`.

``FASTLIFT_FUZZ_SECONDS`` is how long each property test goes on drawing; what failed is printed as an ``@example`` to be
added to it, so that it is tried in every run from then on.
"""

import functools
import os
import time
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

SECONDS = float(os.environ.get("FASTLIFT_FUZZ_SECONDS", "0"))

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("fuzz", deadline=None, max_examples=200)
settings.load_profile("fuzz" if SECONDS else "fixed")


class Fuzzing:
    """Plugin of pytest that repeats property tests, and tells which arguments failed."""

    def __init__(self) -> None:
        self.failed: dict[type[BaseException], dict[str, Any]] = {}  # the last of each kind is the simplest

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Generator[None, Any, Any]:
        if item.get_closest_marker("hypothesis") is None:
            return (yield)
        self.failed = {}
        handle: Any = item.obj.hypothesis  # type: ignore[attr-defined]
        test = handle.inner_test

        @functools.wraps(test)
        def watched(*args: Any, **arguments: Any) -> Any:
            try:
                return test(*args, **arguments)
            except Exception as error:
                self.failed[type(error)] = {n: x for n, x in arguments.items() if n not in item.funcargs}
                raise

        handle.inner_test = watched
        until = time.monotonic() + SECONDS
        try:
            outcome = yield
            while time.monotonic() < until:
                item.runtest()
        finally:
            handle.inner_test = test
        return outcome

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
        report: pytest.TestReport = yield
        if call.when == "call" and report.failed and item.get_closest_marker("hypothesis") is not None:
            cases = [f"@example({', '.join(f'{n}={x!r}' for n, x in found.items())})" for found in self.failed.values()]
            report.sections.append((f"add to {item.name.partition('[')[0]}", "\n".join(cases)))
        return report
