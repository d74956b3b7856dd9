"""Signals stop work where it can stop, once; what was ignored stays ignored."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from fastlift.system import signals as interrupts
from fastlift.system.signals import SIGNALS, Interrupted, Outlasting, Signalled, StopRequest, StopSignals

SENT = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _handlers_of_a_command() -> Iterator[None]:
    """Those that Python starts with, whatever pytest set; restored afterwards."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@SENT
def test_between_steps_a_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        assert stop.number == number
    assert signal.getsignal(number) is before


@SENT
def test_elsewhere_it_is_raised(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def work_in_a_library() -> None:
        with StopSignals(), contextlib.suppress(Exception):
            os.kill(os.getpid(), number)

    with pytest.raises(Signalled, match=number.name) as caught:
        work_in_a_library()
    assert caught.value.number == number
    assert signal.getsignal(number) is before


@SENT
def test_echoes_are_the_same_request(number: signal.Signals) -> None:
    """A scheduler signals all processes of a job, and torchrun passes on what it got: the step is still saved."""
    with StopSignals(), StopRequest() as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == number


@SENT
def test_an_echo_does_not_disturb_the_end(number: signal.Signals) -> None:
    def work_and_tidy() -> None:
        with StopSignals(), StopSignals():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)
                tidied.append(True)

    tidied: list[bool] = []
    with pytest.raises(Signalled):
        work_and_tidy()
    assert tidied == [True]


@SENT
def test_the_next_request_knows_nothing_of_the_last(number: signal.Signals) -> None:
    for _ in range(2):
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
        assert stop.number == number


@SENT
def test_one_of_several_outlasts_a_signal(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's SIGTERM must not keep a process from telling what ended the run; inside, signals act as always."""
    monkeypatch.setattr(interrupts, "ECHO_S", 0.0)
    with Outlasting():
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
        assert stop.number == number
        os.kill(os.getpid(), number)
        with pytest.raises(Signalled), StopSignals():
            os.kill(os.getpid(), number)


@SENT
def test_the_second_signal_is_raised_where_the_first_was_noted(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "ECHO_S", 0.0)  # as if a second had passed between them
    before = signal.getsignal(number)

    def train() -> None:
        with StopSignals(), StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.asked
            os.kill(os.getpid(), number)

    with pytest.raises(Signalled):
        train()
    assert signal.getsignal(number) is before  # and the third acts as if there were nothing here


@SENT
def test_what_was_ignored_stays_ignored(number: signal.Signals) -> None:
    """nohup starts a command with SIGHUP ignored."""
    signal.signal(number, signal.SIG_IGN)
    with StopSignals(), StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert not stop.asked
    assert signal.getsignal(number) is signal.SIG_IGN


def test_other_programs_keep_their_own_signals() -> None:
    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    with StopSignals(), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not stop.asked
    assert got == [signal.SIGUSR1]


def test_outside_the_main_thread_nothing_is_touched() -> None:
    def work() -> None:
        with StopSignals(), StopRequest() as stop:
            found.append(stop.asked)

    found: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_exit_code_names_the_signal() -> None:
    assert Interrupted("stopped", signal.SIGTERM).exit_code == 143
