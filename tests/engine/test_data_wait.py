"""What counts as waiting for data, on a CPU's clock and on the stream of a GPU; and who is told of it."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from devices import CUDA
from fixtures import Told

import fastlift
from fastlift.config import Config, DataConfig
from fastlift.data.loading.batch import Batch
from fastlift.engine import data_wait, loop, pace
from fastlift.engine.data_wait import DataWait, advice
from fastlift.engine.train import Run

BATCH = Batch(*(torch.zeros(1) for _ in range(4)))


class Clock:
    """A host, and a device that works off what the host queues; seconds that only tests let pass."""

    def __init__(self) -> None:
        self.host = self.device = 0.0  # now, and when the device will have done what is queued

    def queue(self, seconds: float) -> None:
        self.device = max(self.device, self.host) + seconds

    def sync(self) -> None:
        self.host = max(self.host, self.device)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the module and of its events."""
    clock = Clock()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any) -> None:
            clock.queue(0.0)
            self.at = clock.device

        def query(self) -> bool:
            return self.at <= clock.host

        def elapsed_time(self, other: "Event") -> float:
            if not (self.query() and other.query()):
                raise RuntimeError("not ready")
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(data_wait.time, "perf_counter", lambda: clock.host)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return clock


def batches(clock: Clock, each_s: float, count: int, copying_s: float = 0.0) -> Iterator[Batch]:
    for _ in range(count):
        clock.host += each_s
        clock.queue(copying_s)
        yield BATCH


def test_on_a_cpu_it_is_the_time_in_the_loader(clock: Clock) -> None:
    waits = DataWait(torch.device("cpu"))
    for number, batch in enumerate(waits.over(batches(clock, 3.0, 4)), start=1):
        assert batch is BATCH
        clock.host += 10.0
        assert waits.seconds() == 3.0 * number
    assert clock.host == 52.0


def test_on_a_gpu_the_host_may_wait_while_the_device_works(clock: Clock) -> None:
    """A step of 10 s takes 1 s to launch, a batch 8 s: the host waits most of its time, the device for the first alone."""
    waits = DataWait(torch.device("cuda", 0))
    for _ in waits.over(batches(clock, 8.0, 5, copying_s=0.25)):
        clock.host += 1.0
        clock.queue(10.0)
    clock.sync()
    assert waits.seconds() == 8.0 + 5 * 0.25  # the first batch, and what the device does for each


def test_on_a_gpu_that_runs_empty_the_gap_counts(clock: Clock) -> None:
    waits = DataWait(torch.device("cuda", 0))
    for _ in waits.over(batches(clock, 14.0, 3)):
        clock.host += 1.0
        clock.queue(10.0)
    clock.sync()
    assert waits.seconds() == 14.0 + 2 * (14.0 - 10.0)
    assert waits.seconds() == 22.0  # reading it again changes nothing


def test_a_log_line_that_reads_the_device_is_no_waiting(clock: Clock) -> None:
    waits = DataWait(torch.device("cuda", 0))
    for _ in waits.over(batches(clock, 0.0, 3)):
        clock.queue(10.0)
        clock.sync()
        clock.host += 2.0  # the line is written while the device has nothing to do
    assert waits.seconds() == 0.0


def test_what_the_device_has_not_come_to_is_counted_later(clock: Clock) -> None:
    waits = DataWait(torch.device("cuda", 0))
    taken = waits.over(batches(clock, 14.0, 2, copying_s=3.0))
    next(taken)
    assert waits.seconds() == 0.0  # the device is at the copy
    clock.queue(100.0)
    next(taken)
    assert waits.seconds() == 14.0 + 3.0
    clock.sync()
    assert waits.seconds() == 14.0 + 2 * 3.0
    assert list(taken) == []
    assert waits.seconds() == 14.0 + 2 * 3.0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_who_leaves_early_ends_the_loaders_epoch(clock: Clock, device: str) -> None:
    ended = []

    def epoch() -> Iterator[Batch]:
        try:
            yield from batches(clock, 1.0, 9)
        finally:
            ended.append(True)

    taken = DataWait(torch.device(device)).over(epoch())
    next(taken)
    taken.close()  # type: ignore[attr-defined]
    del taken
    assert ended == [True]


@pytest.mark.parametrize("name", [CUDA])
def test_a_gpus_own_clock(name: str) -> None:
    """The host waits for the batch 0.2 s: none of it counts while the device has more than that to do, all of it after."""
    waits, device = DataWait(torch.device(name)), torch.device(name)

    def slow() -> Iterator[Batch]:
        for _ in range(2):
            time.sleep(0.2)
            yield BATCH

    def busy_s(cycles: int) -> float:
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        torch.cuda._sleep(cycles)
        torch.cuda.synchronize(device)
        return time.perf_counter() - began

    busy_s(1_000_000)
    half_a_second = int(0.5 / busy_s(100_000_000) * 100_000_000)
    taken = waits.over(slow())
    next(taken)
    torch.cuda.synchronize(device)
    first = waits.seconds()
    assert first >= 0.19
    torch.cuda._sleep(half_a_second)
    next(taken)
    torch.cuda.synchronize(device)
    assert waits.seconds() - first < 0.05


def waited(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[float], float]) -> None:
    """As if a run had waited so long by a time; the loop's clock goes on by a second whenever it looks."""
    ticks = itertools.count(1)
    clock = SimpleNamespace(now=0.0)

    def look() -> float:
        clock.now = float(next(ticks))
        return clock.now

    for module in (loop, pace):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=look))
    monkeypatch.setattr(DataWait, "seconds", lambda self: seconds(clock.now))


def shares_of(run: Run, *kinds: str) -> list[float]:
    """What the log says of the time that was waited."""
    events = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [event["data_wait_share"] for event in events if event["event"] in kinds]


def test_a_run_that_waits_says_so_once(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited(monkeypatch, lambda now: now / 2)
    told = Told()
    notes: list[str] = []
    monkeypatch.setattr(Told, "update", lambda self, done, note=None: notes.append(note or ""))
    run = fastlift.train(settings.override(epochs=2, workers=1), output=tmp_path / "run", ui=told)
    said = [line for line in told.lines if "waiting for images" in line]
    assert len(said) == 1
    assert said[0].startswith("epoch 1: 50 % of its time (")
    assert "images/s  data 50 %" in "\n".join(notes)
    assert shares_of(run, "step", "epoch") == [0.5] * (2 * 5 + 2)


def test_each_line_is_about_the_time_since_the_last(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was waited for the first batch: no other line has anything of it, the epoch has."""
    waited(monkeypatch, lambda now: min(now, 5.0))
    run = fastlift.train(settings.override(epochs=2), output=tmp_path / "run")
    first, *others = shares_of(run, "step")
    assert first > 0
    assert others == [0.0] * 9
    of_first, of_second = shares_of(run, "epoch")
    assert 0 < of_first < first
    assert of_second == 0


def test_a_run_that_waits_little_says_nothing(settings: Config, tmp_path: Path) -> None:
    """Its epochs are shorter than what is worth a word; its results have the share all the same."""
    told = Told()
    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run", ui=told)
    assert "waiting for images" not in told.text
    shares = shares_of(run, "step", "epoch")
    assert len(shares) == 5 + 1
    assert all(0 < share < 1 for share in [*shares, run.results["timing"]["data_wait_share"]])


class _Loader:
    def __init__(self, backend: str) -> None:
        self.backend = backend


def test_what_is_advised_is_what_is_not_done_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_wait, "cpus", lambda: 16)
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    plain, dali = _Loader("torchvision"), _Loader("dali")
    all_of_it = advice(DataConfig(workers=4), plain, gpu)  # type: ignore[arg-type]
    assert "--workers 16 (now 4 threads)" in all_of_it
    assert "--executor dali" in all_of_it
    assert "--workers" not in advice(DataConfig(workers=16), plain, gpu)  # type: ignore[arg-type]
    assert "--executor" not in advice(DataConfig(workers=4), dali, gpu)  # type: ignore[arg-type]
    assert "--executor" not in advice(DataConfig(workers=4), plain, cpu)  # type: ignore[arg-type]
    assert "--host-decode (now 0.25) and --hw-decoder-load (now 1)" in advice(
        DataConfig(host_decode=0.25, hw_decoder_load=1.0),
        dali,
        gpu,  # type: ignore[arg-type]
    )
    assert "--host-decode" not in all_of_it
    assert "--scaled-decode" in all_of_it
    assert "--scaled-decode" not in advice(DataConfig(scaled_decode=True), plain, gpu)  # type: ignore[arg-type]
    assert all(
        "data pack" in advice(DataConfig(workers=16), loader, gpu)  # type: ignore[arg-type]
        for loader in (plain, dali)
    )
