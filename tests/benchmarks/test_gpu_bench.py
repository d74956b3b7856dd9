"""What a part is given: rows that survive failures, rounds in turn, a clock for each device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import CUDA

from benchmarks.gpu.bench import Bench, Broken, Skip, running_note
from benchmarks.gpu.clock import EventClock, HostClock
from benchmarks.gpu.machine import Rates, sources
from benchmarks.gpu.rounds import Times, alternated
from benchmarks.gpu.rows import Rows, read_rows
from benchmarks.gpu.show import line
from benchmarks.gpu.sizes import TOY

Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Make:
    def make(seconds: float = 100.0, is_rehearsal: bool = False) -> Bench:
        rows = Rows(tmp_path / "ops.json", {"card": "made up"})
        rates = Rates({"square": 10.0}, vit_tflops=8.0, copy_tb_per_s=2.0)
        return Bench("ops", TOY, is_rehearsal, HostClock(), rates, rows, tmp_path, time.monotonic() + seconds)

    return make


def kept(tmp_path: Path) -> list[dict[str, Any]]:
    return read_rows(tmp_path / "ops.json")


def failing(error: Exception) -> Iterator[dict[str, Any]]:
    yield {"name": "first", "ms": 1.0}
    raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ("skipped", "out of memory: CUDA out")),
        (Skip("no fp8 units"), ("skipped", "no fp8 units")),
        (ValueError("wrong\nmore"), ("error", "ValueError: wrong")),
    ],
)
def test_what_goes_wrong_is_a_row_and_the_next_group_runs(
    bench: Make, tmp_path: Path, error: Exception, told: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    at_work = bench()
    at_work.attempt("group", 1.0, lambda: failing(error))
    at_work.attempt("next", 1.0, lambda: [{"name": "after", "ms": 2.0}])
    rows = kept(tmp_path)
    assert [row["name"] for row in rows] == ["first", "group", "after"]
    assert rows[1][told[0]].startswith(told[1])
    assert not running_note(tmp_path).exists()
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_group_without_time_is_named_and_not_begun(bench: Make, tmp_path: Path) -> None:
    bench(seconds=5.0).attempt("long", 30.0, lambda: failing(AssertionError("begun")))
    assert [row["skipped"] for row in kept(tmp_path)] == ["5 s were left, it takes about 30"]


def test_a_later_process_goes_on_behind_what_is_there(bench: Make, tmp_path: Path) -> None:
    bench().attempt("one", 1.0, lambda: [{"name": "one"}])
    bench().attempt("one", 1.0, lambda: [{"name": "again"}])
    bench().attempt("two", 1.0, lambda: [{"name": "two"}])
    assert [row["name"] for row in kept(tmp_path)] == ["one", "two"]


def test_rows_are_kept_while_their_group_still_runs(bench: Make, tmp_path: Path) -> None:
    def make() -> Iterator[dict[str, Any]]:
        yield {"name": "first"}
        assert [row["name"] for row in kept(tmp_path)] == ["first"]
        assert json.loads(running_note(tmp_path).read_text())["group"] == "group"
        yield {"name": "second"}

    bench().attempt("group", 1.0, make)
    assert [row["name"] for row in kept(tmp_path)] == ["first", "second"]


def test_a_number_that_is_not_finite_is_an_error_and_the_file_stays_whole(bench: Make, tmp_path: Path) -> None:
    at_work = bench()
    at_work.attempt("group", 1.0, lambda: [{"name": "first", "ms": 1.0}, {"name": "second", "ms": float("nan")}])
    at_work.attempt("next", 1.0, lambda: [{"name": "after"}])
    assert [row["name"] for row in kept(tmp_path)] == ["first", "group", "after"]
    assert "ValueError" in kept(tmp_path)[1]["error"]


def test_a_device_that_answers_no_more_ends_the_process_behind_its_row(bench: Make, tmp_path: Path) -> None:
    at_work = bench()

    def wait() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    at_work.clock.wait = wait  # type: ignore[method-assign]
    with pytest.raises(Broken, match="illegal memory access"):
        at_work.attempt("group", 1.0, lambda: failing(RuntimeError("CUDA error")))
    assert [row["name"] for row in kept(tmp_path)] == ["first", "group"]
    assert not running_note(tmp_path).exists()


def test_shares_are_of_the_card_s_own_rates(bench: Make) -> None:
    assert bench().shares(2.0, flop=4e9, moved=1e9) == {
        "tflop_per_s": 2.0, "share_of_matrix": 0.25, "tb_per_s": 0.5, "share_of_copy": 0.25,
    }  # fmt: skip
    assert bench().shares(2.0, flop=0) == {}


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = alternated(HostClock(), runs, 3, warmup=1, calls=2)
    assert "".join(calls) == "ab" + 3 * "aabb"
    assert [len(found.ms) for found in times.values()] == [3, 3]


def test_rounds_end_early_where_no_time_is_left_but_not_before_the_third() -> None:
    calls: list[int] = []
    alternated(HostClock(), {"a": lambda: calls.append(0)}, 50, warmup=0, until=lambda: -1.0)
    assert len(calls) == 3


def test_times_tell_medians_and_quartiles() -> None:
    row = Times((1.0, 2.0, 3.0, 4.0, 100.0), (0.1, 0.1, 0.2, 0.1, 0.1)).to_row()
    assert row == {"ms": 3.0, "quartiles_ms": [2.0, 4.0], "host_ms": 0.1, "rounds": 5}
    assert Times((2.0,), (1.0,)).to_row()["quartiles_ms"] == [2.0, 2.0]


def test_a_row_is_one_line() -> None:
    row = {
        "part": "step",
        "name": "512",
        "ms": 90.0,
        "quartiles_ms": [89.0, 91.0],
        "host_ms": 20.0,
        "images_per_s": 5689.0,
    }
    row |= {"share_of_matrix": 0.54, "peak_gib": 17.25, "host_sync": "none"}
    told = line(row)
    for part in (
        "90.000 ms",
        "(89.000 to 91.000)",
        "5,689 images/s",
        "54.0 % of the matrix rate",
        "17.2 GiB",
        "no host sync",
    ):
        assert part in told
    assert "\n" not in told


def test_sources_have_a_digest_of_their_own(tmp_path: Path) -> None:
    for folder in ("fastlift", "kernels", "benchmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "kernels" / "a.py").write_text("x = 1\n")
    before = sources(tmp_path)
    assert before == sources(tmp_path)
    (tmp_path / "kernels" / "a.py").write_text("x = 2\n")
    assert sources(tmp_path) != before


@pytest.mark.parametrize("device", [CUDA])
def test_events_time_the_device_and_not_the_host(device: str) -> None:
    """A product of 4096^3 takes a GPU 0.1 ms and more, and a host that sleeps meanwhile is not its time."""
    clock = EventClock()
    x = torch.randn(4096, 4096, device=device, dtype=torch.float16)

    def run() -> None:
        time.sleep(0.002)
        torch.mm(x, x)

    run()
    ahead = [clock.time(run, 1, ahead=True) for _ in range(5)]
    seen = [clock.time(run, 1, ahead=False) for _ in range(5)]
    assert min(ms for ms, _ in ahead) < 2.0 <= min(ms for ms, _ in seen)
    assert all(host_ms >= 2.0 for _, host_ms in ahead + seen)
