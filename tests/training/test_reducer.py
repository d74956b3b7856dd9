"""One buffer holds all gradients, and its segments are added up in one order on all ranks, while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_batch, tiny_learner
from several import together
from torch import Tensor, nn

from fastlift.engine.processes import company
from fastlift.training.distributed import Vote, World, open_group
from fastlift.training.reducer import SEGMENT_BYTES, Reducer
from fastlift.training.step import Learner

SMALL = 1024  # bytes a segment: the tiny model has several
SIZES = (8, 8, 3, 8)  # images of the steps: of the third, ranks of four have one or none


def cut(some: Learner, segment_bytes: int) -> list[tuple[int, bool]]:
    """Give a learner a buffer of other segments; gives what will hold each that is started, and whether in a backward pass."""
    assert some.reducer is not None
    reducer = Reducer(some.parameters.values(), some.world, some.vote, segment_bytes=segment_bytes)
    some.reducer, order = reducer, []
    start, exchange, in_backward = reducer._start_next, reducer._exchange, [True]

    def noted() -> None:
        order.append((len(reducer._started), in_backward[0]))
        start()

    def after(stop: Callable[[], bool]) -> None:
        in_backward[0] = False
        exchange(stop)
        in_backward[0] = True

    reducer._start_next, reducer._exchange = noted, after  # type: ignore[method-assign]
    return order


def steps(clip: Files, world: World, segment_bytes: int, micro_batch: int | None) -> dict[str, Any]:
    """What a rank is left with after steps of which it has every Nth image, and the segments that it started in each."""
    some = tiny_learner(clip, micro_batch=micro_batch, world=world)
    order = cut(some, segment_bytes) if world.size > 1 else []
    sums, started = [], []
    for number, size in enumerate(SIZES):
        images, labels = tiny_batch(some, number, size)
        own = slice(world.rank, None, world.size)
        some.step(images[own], labels[own], labels)
        sums.append(some.sums.read())
        started.append(list(order))
        order.clear()
    state = {name: parameter.detach().clone() for name, parameter in some.parameters.items()}
    return {"state": state | some.kept(), "sums": sums, "started": started}


CASES = [(size, micro) for size in (SEGMENT_BYTES, SMALL) for micro in (None, 1)]


def ranks_work(clip: Files) -> list[dict[str, Any]]:
    with company() as world:
        open_group(world, torch.device("cpu"))
        return [steps(clip, world, *case) for case in CASES]


@pytest.mark.parametrize("processes", [2, 4])
def test_segments_leave_in_one_order_and_change_no_sum(processes: int, tiny_clip: Files, tmp_path: Path) -> None:
    ranks = together(tmp_path, processes, ranks_work, tiny_clip)
    for case, (segment_bytes, micro_batch) in enumerate(CASES):
        several = [rank[case] for rank in ranks]
        one = steps(tiny_clip, World(), segment_bytes, micro_batch)
        for rank in several:
            for name, tensor in several[0]["state"].items():
                assert torch.equal(rank["state"][name], tensor), "ranks drift apart"
                torch.testing.assert_close(tensor, one["state"][name], rtol=1e-4, atol=1e-6)
            for mine, theirs in zip(rank["sums"], one["sums"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5)
        number = len(several[0]["started"][0])
        assert (number > 3) if segment_bytes == SMALL else (number == 1)
        for rank, found in enumerate(several):
            for size, started in zip(SIZES, found["started"], strict=True):
                assert [segment for segment, _ in started] == list(range(number))
                has_images = size > rank and (
                    micro_batch is None or len(range(rank, size, processes)) == -(-size // processes)
                )
                # all but the last one leave early, on a rank that has images in the last pass
                assert [early for _, early in started] == [has_images] * (number - 1) + [False]
    whole, cut_up = (ranks[0][CASES.index((size, None))]["state"] for size in (SEGMENT_BYTES, SMALL))
    if processes == 2:  # a + b = b + a; with more, gloo's ring adds in an order that depends on the place in a segment
        assert all(torch.equal(tensor, cut_up[name]) for name, tensor in whole.items())


def memory(clip: Files) -> list[bool]:
    with company() as world:
        open_group(world, torch.device("cpu"))
        some = tiny_learner(clip, world=world)
        assert some.reducer is not None
        buffer = some.reducer.gradients.untyped_storage().data_ptr()
        found = []
        for number in range(3):
            if number == 1:
                some.optimizer.zero_grad(set_to_none=True)  # as where memory ran out
            some.step(*tiny_batch(some, number), torch.arange(16) % 2)
            found += [parameter.grad.untyped_storage().data_ptr() == buffer for parameter in some.parameters.values()]  # type: ignore[union-attr]
        return found


def test_gradients_lie_in_one_buffer_for_good(tiny_clip: Files, tmp_path: Path) -> None:
    for found in together(tmp_path, 2, memory, tiny_clip):
        assert len(found) > 3
        assert all(found)


def test_one_process_has_no_buffer(tiny_clip: Files) -> None:
    assert tiny_learner(tiny_clip).reducer is None


def test_a_segment_is_at_least_as_long_as_asked_for() -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in (5, 1000, 3, 400, 700)]
    made = Reducer(parameters, World(0, 2), Vote(torch.device("cpu")), segment_bytes=2000)
    lengths = [len(segment) for segment in made._segments]
    assert lengths == [700, 400 + 4 + 1000, 8 + 3]  # from the last parameter to the first, and three numbers
    flat: Tensor = made._flat
    assert len(flat) == sum(lengths)
    assert all(view.data_ptr() % 16 == flat.data_ptr() % 16 for view in made._views)


@pytest.mark.parametrize("parameters", [[], [torch.zeros(2), torch.zeros(2, dtype=torch.float64)]])
def test_one_buffer_needs_one_dtype(parameters: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="of one dtype, on one device"):
        Reducer([nn.Parameter(tensor) for tensor in parameters], World(0, 2), Vote(torch.device("cpu")))
