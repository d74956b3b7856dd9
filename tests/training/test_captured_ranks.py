"""Captured steps of several processes give what plain ones do, bit by bit; collectives stay between the parts of a record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import CLASS_NAMES, Files, tiny_batch, tiny_learner
from several import together
from tape import Dispatched, Tape
from torch import Tensor

from fastlift.data.loading.mixed import Mixed
from fastlift.engine.processes import company
from fastlift.training.captured import WARM_UP, CapturedStep, CudaGraphs
from fastlift.training.distributed import Collectives, Vote, World, open_group
from fastlift.training.reducer import Reducer
from fastlift.training.step import Learner

STEPS, EPOCH = 14, 7
FULL, LAST = 8, 1  # images of all processes: of the last batch of an epoch, the second process has none
BAD = 10  # the step in which rank 1's images hold a NaN
SMALL = 1024  # bytes a segment of the buffer, so that it has several


def own_batch(some: Learner, number: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    images, labels = tiny_batch(some, number, size)
    own = slice(some.world.rank, None, some.world.size)
    if number == BAD and some.world.rank == 1:
        images = images * torch.nan
    return images[own], labels[own].contiguous(), labels


def taken(some: Learner, step: Callable[..., bool], mixed: bool = False) -> dict[str, Any]:
    """Two epochs, of which the last batches are partial, and a stop that rank 1 asks for in steps of its own."""
    heard, calls = [], []
    for number in range(STEPS):
        some.set_lr(0.0625 if number < EPOCH else 0.03125)  # fp32 holds them
        asks = some.world.rank == 1 and number % 3 == 1
        before = some.world.collectives.number
        batch = own_batch(some, number, LAST if number % EPOCH == EPOCH - 1 else FULL)
        shares = torch.linspace(0.5, 1, len(batch[1])).roll(number)
        mixes = Mixed((batch[1] + number) % len(CLASS_NAMES), shares) if mixed else None
        heard.append(step(*batch, stop=lambda asks=asks: asks, mixed=mixes))
        calls.append(some.world.collectives.number - before)
    state: dict[str, Any] = {name: parameter.detach().clone() for name, parameter in some.parameters.items()}
    state |= {name: tensor.clone() for name, tensor in some.kept().items()}
    registers = {"loss": some.sums.loss, "correct": some.sums.correct, "left out": some.sums.left_out}
    state |= {name: tensor.clone() for name, tensor in registers.items()}
    state |= {"skipped": some.watch.skipped.clone(), "scale": torch.tensor(some.scaler.get_scale())}
    counted = (some.sums.images, some.watch.taken)
    return {"state": state, "heard": heard, "calls": calls, "counted": counted}


CASES: dict[str, dict[str, Any]] = {
    "LA": {},
    "LA in parts": {"micro_batch": 2},
    "LA in segments": {"segment_bytes": SMALL, "micro_batch": 2},
    "CB": {"loss": "CB"},
    "mixed": {"loss": "CB", "micro_batch": 2, "mixed": True},
    "LADE": {"loss": "LADE", "micro_batch": 2},
    "fp16": {"dtype": torch.float16},
    "one rank cannot": {"cannot": 1},
}


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Labels are not looked at, votes are read by no op that waits, and every op is dispatched."""
    from fastlift_kernels.cosine_ce import op

    op.check_labels = lambda labels, classes: None
    Vote.count = lambda self, votes: bool(votes.numpy() > 0)  # type: ignore[method-assign]
    with Dispatched():
        yield


def both(
    clip: Files, world: World, segment_bytes: int = 0, cannot: int | None = None, mixed: bool = False, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What plain steps give, and captured ones."""
    found = []
    for is_captured in (False, True):
        some = tiny_learner(clip, world=world, on_nonfinite="skip", **options)
        if segment_bytes:
            some.reducer = Reducer(some.parameters.values(), world, some.vote, segment_bytes=segment_bytes)
        tape, said = Tape(), []
        step = CapturedStep(some, said.append, tape).step if is_captured else some.step
        if cannot == world.rank:
            tape.record = _out_of_memory  # type: ignore[method-assign]
        found.append(taken(some, step, mixed) | {"said": said, "records": tape.records, "replays": tape.replays})
    return found[0], found[1]


def _out_of_memory(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def ranks_work(clip: Files) -> dict[str, Any]:
    with company() as world, as_on_a_gpu():
        open_group(world, torch.device("cpu"))
        return {name: both(clip, world, **options) for name, options in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tiny_clip: Files, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return together(tmp_path_factory.mktemp("ranks"), 2, ranks_work, tiny_clip)


@pytest.mark.parametrize("case", CASES)
def test_captured_steps_of_two_processes_are_the_plain_ones(case: str, ranks: list[dict[str, Any]]) -> None:
    """With partial batches that leave a process without images, a bad step of one, and requests to stop."""
    first = ranks[0][case][0]["state"]
    for rank, found in enumerate(ranks):
        plain, captured = found[case]
        for name, tensor in first.items():
            assert torch.equal(plain["state"][name], tensor), f"ranks drift apart: {name}"
            assert torch.equal(captured["state"][name], tensor), f"captured steps differ: {name}"
        assert captured["counted"] == plain["counted"] == (12 * FULL + 2 * LAST, STEPS)
        assert captured["heard"] == plain["heard"] == [number % 3 == 1 for number in range(STEPS)]
        replays = STEPS - WARM_UP - 2
        if CASES[case].get("cannot") == rank:
            assert (captured["records"], captured["replays"]) == (0, 0)
            assert captured["said"] == ["training step not captured in a CUDA graph: memory ran out"]
        else:
            assert (captured["records"], captured["replays"]) == (1, replays)
            assert captured["said"] == ["training step captured in a CUDA graph, for 4 images"]
    skipped, scale = int(first["skipped"]), float(first["scale"])
    assert skipped == 1
    assert (scale < torch.amp.GradScaler("cpu").get_scale()) if case == "fp16" else (scale == 1.0)


def test_segments_are_as_many_while_they_are_replayed(ranks: list[dict[str, Any]]) -> None:
    """A rank that replays starts what a rank starts that takes the step: in one go after the backward pass."""
    plain, captured = ranks[0]["LA in segments"]
    assert plain["calls"][0] > 3
    assert captured["calls"][:WARM_UP] == plain["calls"][:WARM_UP]
    assert captured["calls"][WARM_UP] == 1


def tight(clip: Files) -> list[str]:
    """A partial batch for which memory runs out on rank 1, before it exchanges anything with others or after."""
    ended = []
    with company() as world, as_on_a_gpu():
        open_group(world, torch.device("cpu"))
        for is_late in (False, True):
            some = tiny_learner(clip, world=world)
            tape = Tape()
            step, queue = CapturedStep(some, lambda _: None, tape), tape.queue
            for number in range(WARM_UP + 1):
                step.step(*own_batch(some, number, FULL))
            assert tape.replays == 1
            times = [0]

            def once(
                work: Callable[[], bool],
                on_wait: Any = None,
                times: list[int] = times,
                queue: Any = queue,
                is_late: bool = is_late,
            ) -> bool:
                times[0] += 1
                if times[0] > 1:
                    return bool(queue(work, on_wait))
                if is_late:
                    queue(lambda: world.collectives(lambda: None))
                raise torch.OutOfMemoryError("CUDA out of memory")

            if world.rank == 1:
                tape.queue = once  # type: ignore[method-assign]
            if is_late and world.rank == 0:
                return [*ended, "waits for the other"]
            try:
                step.step(*own_batch(some, 9, LAST + 1))
                ended.append(f"taken {some.watch.taken}")
            except torch.OutOfMemoryError:
                ended.append("out of memory")
    return ended


def test_a_step_is_not_taken_again_once_others_have_its_sums(tiny_clip: Files, tmp_path: Path) -> None:
    taken_again = f"taken {WARM_UP + 2}"
    found = together(tmp_path, 2, tight, tiny_clip)
    assert found == [[taken_again, "waits for the other"], [taken_again, "out of memory"]]


class Graph:
    """Of ``torch.cuda``: what a record of ours asks of them, noted."""

    def __init__(self, noted: list[str], number: int) -> None:
        self.noted, self.number = noted, number

    def replay(self) -> None:
        self.noted.append(f"replay {self.number}")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    graphs: list[Graph] = []

    def made() -> Graph:
        graphs.append(Graph(told, len(graphs)))
        return graphs[-1]

    @contextmanager
    def recorded(graph: Graph, *, pool: str, stream: str, capture_error_mode: str) -> Iterator[None]:
        told.append(f"begin {graph.number} {pool} {stream} {capture_error_mode}")
        try:
            yield
        finally:
            told.append(f"end {graph.number}")

    @contextmanager
    def on(stream: str) -> Iterator[None]:
        yield

    replaced = {"CUDAGraph": made, "graph": recorded, "graph_pool_handle": lambda: "pool", "stream": on}
    replaced |= {"Stream": lambda device: "stream", "current_stream": lambda device: "current"}
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return told


def test_collectives_stand_between_cuda_graphs(noted: list[str]) -> None:
    collectives = Collectives()

    def work() -> None:
        noted.append("forward")
        collectives(lambda: noted.append("gather"))
        noted.append("backward")
        collectives(lambda: noted.append("sum"))
        noted.append("update")

    replay = CudaGraphs(torch.device("cuda")).record(work, collectives)
    began = [f"begin {number} pool stream thread_local" for number in range(3)]
    assert noted == [began[0], "forward", "end 0", began[1], "backward", "end 1", began[2], "update", "end 2"]
    noted.clear()
    for _ in range(2):
        replay()
    assert noted == ["replay 0", "gather", "replay 1", "sum", "replay 2"] * 2
    assert collectives.number == 4
    assert not collectives.are_recorded


def test_a_collective_of_autograds_thread_is_refused(noted: list[str]) -> None:
    """Only the thread that began to record may end it, and only then is the collective left out of the graph."""
    collectives, refused = Collectives(), []

    def in_backward() -> None:
        try:
            collectives(lambda: noted.append("sum"))
        except RuntimeError as error:
            refused.append(str(error))

    def work() -> None:
        thread = threading.Thread(target=in_backward)
        thread.start()
        thread.join()
        raise RuntimeError(refused[0])

    with pytest.raises(RuntimeError, match="a collective in the backward pass cannot stand between two graphs"):
        CudaGraphs(torch.device("cuda")).record(work, collectives)
    assert noted == ["begin 0 pool stream thread_local", "end 0"]
    assert not collectives.are_recorded
