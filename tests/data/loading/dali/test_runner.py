"""The thread that takes batches does nothing of DALI's part; on a GPU, DALI's memory is held for as long as it is read."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loaders import NEEDS_DALI, WITH_HELPERS, by_crops, levels_apart, make_loader

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.loading import fetching
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.dali import loader as dali_loader
from fastlift.data.loading.dali.feed import Feed, Memory
from fastlift.data.loading.dali.output import Handover
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream
from fastlift.errors import UserError

pytestmark = NEEDS_DALI


def make(
    index: ImageIndex, crops: TrainCrops | EvalCrops | None = None, backend: str = "dali", **options: Any
) -> Loader:
    return make_loader(index, crops or TrainCrops(32), backend, cache_bytes=0, **options)


def test_what_dali_asks_for_is_made_in_another_thread(image_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the steps, the reading, and what DALI is given."""
    threads: dict[str, set[str]] = {}
    for owner, name in ((Feed, "take"), (fetching, "open_file"), (Stream, "of")):
        original = getattr(owner, name)

        def noted(*arguments: Any, original: Callable = original, name: str = name) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread().name.split("_")[0])
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)
    list(make(image_files.fill().load().train).epoch(0))
    assert threads == {"take": {"fastlift-dali"}, "open_file": {"fastlift-read"}, "of": {"fastlift-dali"}}


def test_a_batch_is_ready_before_it_is_asked_for(image_files: Any) -> None:
    loader = make(image_files.fill(each=8).load().train)
    assert isinstance(loader, dali_loader.DaliLoader)
    batches = loader.epoch(0)
    next(batches)
    coming = list(loader._runner._coming)
    deadline = time.monotonic() + 60
    while not all(future.done() for future in coming) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [future.done() for future in coming] == [True]
    assert len(list(batches)) == 5


@pytest.mark.parametrize("where", ["reading", "steps"])
def test_an_error_in_the_threads_is_told_and_the_loader_goes_on(
    where: str, image_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = image_files.fill(each=8).load().train
    loader = make(index)
    expected = [batch.images for batch in make(index).epoch(1)]
    with monkeypatch.context() as broken:

        def fail(*_: Any) -> None:
            raise OSError(24, "Too many open files")

        broken.setattr(*((fetching, "open_file", fail) if where == "reading" else (Stream, "of", fail)))
        with pytest.raises(OSError, match="Too many open files"):
            list(loader.epoch(0))
    assert all(torch.equal(a.images, b) for a, b in zip(loader.epoch(1), expected, strict=True))
    loader.close()


def test_a_loader_can_be_closed_in_the_middle_of_an_epoch(image_files: Any) -> None:
    loader = make(image_files.fill(each=8).load().train)
    batches = loader.epoch(0)
    next(batches)
    loader.close()
    batches.close()  # type: ignore[attr-defined]


def test_an_epoch_that_is_left_to_the_collector_ends(image_files: Any) -> None:
    """As after an error whose traceback holds it: its threads are gone before it is told to stop."""
    image_files.fill(each=8).load()
    arguments = json.dumps({key: str(path) for key, path in image_files.options().items()})
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, arguments], capture_output=True, text=True, timeout=120, env=WITH_HELPERS
    )
    assert (done.returncode, done.stdout) == (0, "collected\nended\n"), done.stderr


LEAVE = """
import gc, json, sys, time
from pathlib import Path
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.sampling.crops import TrainCrops
from loaders import make_loader
index = load_data_set("list", **{key: Path(path) for key, path in json.loads(sys.argv[1]).items()}).train
def begin():
    loader = make_loader(index, TrainCrops(32), "dali")
    batches = loader.epoch(0)
    next(batches)
    while not all(coming.done() for coming in loader._runner._coming):
        time.sleep(0.01)
    time.sleep(0.2)  # until the thread waits for work, and holds nothing
    cycle = [loader, batches]
    cycle.append(cycle)
    return cycle
begin()
gc.collect()
print("collected")
kept = begin()  # until the interpreter ends
print("ended")
"""


def test_memory_is_used_again() -> None:
    memory = Memory()
    memory.take(100)
    memory.clear()
    first, second = memory.take(60), memory.take(40)
    first[:], second[:] = 1, 2
    third = memory.take(50)  # more than there was room for
    third[:] = 3
    assert first.base is second.base is not None
    assert third.base is not first.base
    assert (set(first.tolist()), set(second.tolist()), set(third.tolist())) == ({1}, {2}, {3})
    memory.clear()
    assert memory.take(150).base is not None
    memory.clear()
    memory.take(10)
    memory.clear()  # one large image does not hold its room for ever
    assert len(memory._room) < 20


@by_crops
def test_order_labels_and_crops(crops: TrainCrops | EvalCrops, image_files: Any, make_bad_file: Callable) -> None:
    """The same as the torchvision backend's; rows that DALI does not get have the other backend's very bits."""
    image_files.fill(each=3)
    for label in range(3):
        image_files.add(f"c{label}/x.png", label, make_bad_file("alpha"))
    index = image_files.load().train
    dali, plain = make(index, crops), make(index, crops, "torchvision")
    for epoch in range(2):
        for a, b in zip(dali.epoch(epoch), plain.epoch(epoch), strict=True):
            assert torch.equal(a.labels, b.labels)
            assert torch.equal(a.indices, b.indices)
            assert a.images.shape == b.images.shape
            apart = levels_apart(a.images, b.images)
            assert apart.max() < 0.35
            ours = torch.from_numpy(np.isin(a.indices.numpy(), [9, 10, 11]))
            assert torch.equal(a.images[ours], b.images[ours])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype(dtype: torch.dtype, image_files: Any, make_bad_file: Callable) -> None:
    image_files.fill(each=2).add("c0/x.png", 0, make_bad_file("alpha"))
    index = image_files.load().train
    for a, b in zip(make(index, dtype=dtype).epoch(0), make(index, backend="torchvision").epoch(0), strict=True):
        assert a.images.dtype == dtype
        assert levels_apart(a.images, b.images).max() < 1


def test_it_resumes_and_repairs(image_files: Any) -> None:
    """A broken image, and one that only DALI cannot decode, in the same batches as ever."""
    index = image_files.fill(each=6).load().train
    file = index.file(7)
    whole = file.read_bytes()
    place = len(whole) * 9 // 10
    file.write_bytes(whole[:place] + b"\xff\x02" + whole[place:])
    index.file(11).unlink()
    bad: list[BadImage] = []
    loader = make(index, bad_images="skip", on_bad=bad.append)
    full = list(loader.epoch(0))
    assert sorted(b.index for b in bad) == [7, 11]
    again = make(index, bad_images="skip")
    for start in (0, 2, 4):
        for a, b in zip(full[start:], again.epoch(0, start), strict=True):
            assert torch.equal(a.indices, b.indices)
            assert torch.equal(a.images, b.images)
    plain = make(index, backend="torchvision", bad_images="skip")
    assert all(levels_apart(a.images, b.images).max() < 0.35 for a, b in zip(full, plain.epoch(0), strict=True))
    with pytest.raises(UserError, match=r"c1/1\.jpg cannot be decoded|c1/5\.jpg is missing"):
        list(make(index).epoch(0))


class FakeEvent:
    """A CUDA event that is reached when the test says so."""

    made: list["FakeEvent"]

    def __init__(self) -> None:
        self.reached = self.waited_for = False
        FakeEvent.made.append(self)

    def record(self, stream: Any) -> None:
        assert stream == "the stream that copies"

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        self.reached = self.waited_for = True


class OnGPU(torch.Tensor):
    """A tensor in the machine's memory that says that it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


class FakeOutput:
    """DALI's list: notes how its memory is asked for, and when it is let go."""

    def __init__(self, content: torch.Tensor, freed: list[int], number: int) -> None:
        self.content, self.freed, self.number = content, freed, number

    def as_tensor(self) -> "FakeOutput":
        return self

    def __dlpack__(self, *, stream: int) -> Any:
        assert stream == -1
        return self.content.__dlpack__()

    def __del__(self) -> None:
        self.freed.append(self.number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dalis_memory_is_held_until_it_is_copied(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEvent.made, freed = [], []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream that copies")
    from_dlpack = torch.from_dlpack
    monkeypatch.setattr(torch, "from_dlpack", lambda capsule: from_dlpack(capsule).as_subclass(OnGPU))
    handover = Handover(dtype)
    content = [torch.full((2, 3), float(k)) for k in range(4)]
    images = [handover.own(FakeOutput(content[k], freed, k)) for k in range(2)]
    assert freed == []
    FakeEvent.made[0].reached = True
    images.append(handover.own(FakeOutput(content[2], freed, 2)))
    assert freed == [0]
    FakeEvent.made[2].reached = True  # events are reached in order; what comes before it is not let go
    images.append(handover.own(FakeOutput(content[3], freed, 3)))
    assert freed == [0]
    handover.close()
    assert freed == [0, 1, 2, 3]
    assert [event.waited_for for event in FakeEvent.made] == [False, True, True, True]
    for tensor in content:
        tensor.fill_(-1)  # DALI uses its memory again
    assert [image.dtype for image in images] == [dtype] * 4
    assert [image[0, 0].item() for image in images] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "message",
    [
        "Error in thread 0: CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory",
        "CUDA allocation failed\nRequested: 5 bytes",
        "encountered:\nnvJPEG error (5): NVJPEG_STATUS_ALLOCATOR_FAILURE",
    ],
)
def test_a_gpu_that_fails_is_not_the_images_fault(
    message: str, image_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every image of the run would be tried alone, and told of."""
    loader = make(image_files.fill().load().train)

    def fail() -> None:
        raise RuntimeError(message)

    assert isinstance(loader, dali_loader.DaliLoader)
    pipeline = loader._runner._pipeline
    batches = loader.epoch(0)
    next(batches)
    monkeypatch.setattr(pipeline, "run", fail)
    with pytest.raises(UserError, match=r"DALI failed on the GPU: .*smaller batch, or --executor torchvision") as told:
        list(batches)
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)
