"""Who follows a training is told all of it in order, and can neither lose a run nor hold it up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from fastlift.callbacks.background import Background
from fastlift.callbacks.callback import Callback, Event, RunEnd, RunStart, scalars
from fastlift.callbacks.calling import Callbacks
from fastlift.errors import FastliftWarning, UserError
from fastlift.system.signals import Interrupted, Signalled

START = RunStart(Path("run"), "ab" * 16, {}, {}, 0, ())


class Noting(Callback):
    """Notes what it is told; raises at one of the calls."""

    def __init__(self, fail_at: str = "") -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self._fail_at = fail_at

    def _note(self, call: str, what: Any) -> None:
        self.told.append((call, what))
        self.threads.add(threading.get_ident())
        if call == self._fail_at:
            raise RuntimeError("no network\nand more")

    def on_start(self, run: RunStart) -> None:
        self._note("start", run.step)

    def on_step(self, step: int, values: Event) -> None:
        self._note("step", (step, dict(values)))

    def on_epoch(self, step: int, values: Event) -> None:
        self._note("epoch", (step, dict(values)))

    def on_evaluation(self, step: int, values: Event) -> None:
        self._note("evaluation", (step, dict(values)))

    def on_end(self, end: RunEnd) -> None:
        self._note("end", end.status)


ALL = [
    ("start", 0),
    ("step", (1, {"loss": 2.0})),
    ("epoch", (1, {"train_loss": 2.0})),
    ("evaluation", (1, {"split": "val"})),
    ("end", "finished"),
]


def tell_all(callbacks: Callbacks) -> None:
    callbacks.start(START)
    callbacks.event("step", 1, {"loss": 2.0})
    callbacks.event("nonfinite", 1, {"images": []})
    callbacks.event("epoch", 1, {"train_loss": 2.0})
    callbacks.event("evaluation", 1, {"split": "val"})
    callbacks.end(RunEnd({}, None))


def test_all_is_told_in_order() -> None:
    first, second = Noting(), Noting()
    tell_all(Callbacks([first, second]))
    assert first.told == second.told == ALL


def test_a_callback_without_methods_is_one() -> None:
    tell_all(Callbacks([Callback()]))


@pytest.mark.parametrize("place", range(len(ALL)))
def test_an_error_is_told_once_and_the_others_go_on(place: int) -> None:
    """With its name; it hears of nothing more but the end."""
    call = ALL[place][0]
    broken, other = Noting(fail_at=call), Noting()
    with pytest.warns(FastliftWarning) as caught:
        tell_all(Callbacks([broken, other]))
    (warning,) = caught
    assert str(warning.message) == (
        "callback Noting failed and is told nothing more, the run goes on: RuntimeError: no network"
    )
    assert other.told == ALL
    assert broken.told == ALL[: place + 1] + ([] if call == "end" else ALL[-1:])


def test_in_a_thread_of_its_own() -> None:
    inner = Noting()
    tell_all(Callbacks([Background(inner, "client")]))
    assert inner.told == ALL
    assert inner.threads.isdisjoint({threading.get_ident()})


@pytest.mark.parametrize("call", ["start", "evaluation", "end"])
def test_an_error_in_a_thread_is_told_too(call: str) -> None:
    with pytest.warns(FastliftWarning, match="callback client failed .* RuntimeError: no network") as caught:
        tell_all(Callbacks([Background(Noting(call), "client")]))
    assert len(caught) == 1


def test_a_client_that_hangs_holds_nothing_up() -> None:
    class Hangs(Callback):
        def on_start(self, run: RunStart) -> None:
            forever.wait()

    forever = threading.Event()
    with pytest.warns(FastliftWarning, match=r"callback client failed .*not done after 0\.05 s"):
        tell_all(Callbacks([Background(Hangs(), "client", end_s=0.05)]))
    forever.set()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("out of memory"), "failed"),
        (Signalled(2), "interrupted"),
        (Interrupted("SIGTERM", 15), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_stops_a_run_is_its_end(error: BaseException, status: str) -> None:
    noting = Noting()
    callbacks = Callbacks([noting])

    def stopped() -> None:
        with callbacks.told_of_failure():
            callbacks.start(START)
            raise error

    with pytest.raises(type(error)):
        stopped()
    assert noting.told == [("start", 0), ("end", status)]


def test_who_heard_of_no_start_hears_of_no_end() -> None:
    noting = Noting()
    with pytest.raises(UserError), Callbacks([noting]).told_of_failure():
        raise UserError("no such folder")
    assert noting.told == []


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks: expected instances of fastlift\.Callback, got <function"):
        Callbacks([lambda event: None])  # type: ignore[list-item]
    for one in (Callback(), None):
        with pytest.raises(UserError, match=r"callbacks: expected a list of them, got "):
            Callbacks(one)  # type: ignore[arg-type]


def test_numbers_have_the_names_of_curves() -> None:
    figures = {"split": "val", "accuracy": 50.0, "few": None, "samples": 8, "seconds": 3.0, "epoch": 0, "step": 4}
    assert scalars("evaluation", figures) == {"val/accuracy": 50.0, "val/samples": 8}
    assert scalars("evaluation", {"few": 1.0}) == {"test/few": 1.0}
    assert scalars("step", {"loss": 1.5}) == {"step/loss": 1.5}
