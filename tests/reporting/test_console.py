"""The time that is left, as the terminal tells it."""

import io
from collections.abc import Callable, Iterable

import pytest
from rich.console import Console

from fastlift.reporting import console
from fastlift.reporting.console import Pace, Terminal


def seconds_left(ends: Iterable[float], total: int) -> list[float | None]:
    """What is told after steps that end at these seconds."""
    pace = Pace()
    told = [pace.left(1000.0 + end, done, total) for done, end in enumerate(ends, start=1)]
    return [None if left is None else left.total_seconds() for left in told]


def test_a_first_step_that_compiles_is_no_measure() -> None:
    told = seconds_left([90.0 + 0.5 * k for k in range(20)], total=1000)
    assert told[0] is None
    assert told[1:] == [pytest.approx(0.5 * (1000 - done), abs=0.6) for done in range(2, 21)]


def test_nor_are_two_of_them_for_long() -> None:
    ends = [60.0, 120.0, *(120.0 + 0.5 * k for k in range(1, 241))]
    told = seconds_left(ends, total=1000)
    assert told[122] == pytest.approx(0.5 * (1000 - 123), abs=1)  # a minute later


def test_steps_longer_than_the_window() -> None:
    assert seconds_left([100.0, 200.0, 300.0], total=10) == [None, 800.0, 700.0]


def test_a_pace_that_changes_is_followed() -> None:
    slow_then_fast = [*(float(k) for k in range(1, 101)), *(100 + 0.1 * k for k in range(1, 2001))]
    told = seconds_left(slow_then_fast, total=10_000)
    assert told[99] == pytest.approx(9900, rel=0.05)
    assert told[-1] == pytest.approx(0.1 * (10_000 - 2100), rel=0.05)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that the terminal's lines go by."""
    now = 0.0

    def to(seconds: float) -> None:
        nonlocal now
        now = seconds

    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    return to


def test_lines_of_a_batch_job(clock: Callable[[float], None]) -> None:
    """A resumed run of which 100 steps were made before: the first step takes a minute, the others a second."""
    out = io.StringIO()
    with Terminal(Console(file=out, width=200)).bar("training", 200, done=100) as bar:
        for step in range(101, 201):
            clock(60.0 + step - 101)
            bar.update(step, "loss 1")
    lines = out.getvalue().splitlines()
    assert lines[0] == "training 101/200  loss 1"
    assert lines[1] == "training 116/200, 0:01:24 left  loss 1"


def test_the_bar_of_a_terminal(clock: Callable[[float], None]) -> None:
    out = io.StringIO()
    with Terminal(Console(file=out, width=200, force_terminal=True)).bar("training", 10) as bar:
        for step in (1, 2):
            clock(60.0 * step)
            bar.update(step)
    assert "0:08:00 left" in out.getvalue()
