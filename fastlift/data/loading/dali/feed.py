"""What DALI is given: the encoded images of each step, read and looked at by threads before it comes to them.

DALI's decoders end the process on bytes that they do not recognise, and show some images otherwise than Pillow. So it gets
plain JPEGs of the indexed size alone (``jpeg.plain_parts``), without their metadata; in place of everything else it gets a
tiny image that nobody looks at, and we make those rows. So do we with images that are decoded at a reduced scale, which no
decoder of DALI's does, and with the share of the images that our threads are to take from the GPU. What a look has found is kept (``looks.py``): of a file that is in the
same condition as it was then, the same parts are read without another look. DALI decodes them where the threads have put
them, and nothing is put there again before it has come to their end.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fastlift.data.index.jpeg import Ranges, joined, plain_parts
from fastlift.data.loading.collate import chunks
from fastlift.data.loading.dali.graph import GraphSpec
from fastlift.data.loading.dali.trial import black_jpeg
from fastlift.data.loading.decode import load_image
from fastlift.data.loading.fetching import Fetches
from fastlift.data.loading.looks import Looks
from fastlift.data.loading.reading import DecodeError, ImageFile, StoredImage
from fastlift.data.loading.render import MAX_RESIZED_PIXELS, decode_scale, render_crops
from fastlift.data.sampling.crop_boxes import CropBoxes, ResizedCrops
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.philox import uniform
from fastlift.data.sampling.stream import Step, Stream

_HOST = 2**31  # stream of random numbers, beside those of boxes and flips


class Memory:
    """Room for the encoded images of a batch, used for one batch after another.

    The system takes longer to find new pages than to fill them from a file.
    """

    def __init__(self) -> None:
        self._room = np.empty(0, dtype=np.uint8)
        self._used = self._wanted = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> np.ndarray:
        """Room for so many bytes, uint8 [count], until ``clear``."""
        with self._lock:
            self._wanted += count
            if self._used + count > len(self._room):
                return np.empty(count, dtype=np.uint8)
            self._used += count
            return self._room[self._used - count : self._used]

    def clear(self) -> None:
        """All of it is free again, as much as was wanted this time."""
        if not len(self._room) // 4 <= self._wanted <= len(self._room):
            self._room = np.empty(self._wanted + self._wanted // 8, dtype=np.uint8)
        self._used = self._wanted = 0


@dataclass
class Fed:
    """A step as DALI got it."""

    step: Step
    encoded: list[np.ndarray]  # uint8 [n] each, what DALI decodes
    memory: Memory  # where they lie
    mine: np.ndarray  # bool [B], rows that DALI is not to make, whatever their images are
    # Rows that DALI does not make: their crops, uint8 [V, 3, S, S], or why there are none. Written by the threads that read.
    ours: dict[int, np.ndarray | DecodeError] = field(default_factory=dict)
    joined: np.ndarray | None = None  # uint8 [rows of ours, V, 3, S, S], in their order, where none is broken
    given: tuple[Any, ...] = ()  # DALI's own lists of images and columns

    def join(self, pinned: bool) -> None:
        """Bring together what is ours, in pinned memory where it goes to a GPU: done before somebody takes the batch."""
        crops = [made for made in self.ours.values() if isinstance(made, np.ndarray)]
        if not crops or len(crops) < len(self.ours):
            return
        room = torch.empty((len(crops), *crops[0].shape), dtype=torch.uint8, pin_memory=pinned)
        self.joined = np.stack(crops, out=room.numpy())

    def crops(self) -> np.ndarray:
        """Those of all rows that DALI does not make: uint8 [rows, V, 3, S, S]; raises DecodeError where an image is broken."""
        broken = next((made for made in self.ours.values() if isinstance(made, DecodeError)), None)
        if broken is not None:
            raise broken
        assert self.joined is not None
        return self.joined


@dataclass
class Waited:
    """Where the thread that runs the pipeline spent its time, in seconds.

    threads_s: waiting for the threads that read and decode. feeding_s: in the feed, which contains that. dali_s: waiting for
    DALI. Who takes the batches waits for the larger of both, where they are not ready before.
    """

    threads_s: float = 0.0
    feeding_s: float = 0.0
    dali_s: float = 0.0


class Feed:
    """DALI's source: hands out the steps that it was given, and remembers them in order."""

    def __init__(self, stream: Stream, spec: GraphSpec, looks: Looks, workers: int, ahead: int) -> None:
        """``ahead``: so many steps are read before DALI asks for them."""
        self._stream, self._spec, self._looks = stream, spec, looks
        self._workers, self._ahead = workers, ahead
        self._fetches = Fetches(stream.index)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fastlift-read")
        self._in_place = np.frombuffer(black_jpeg(), dtype=np.uint8)
        self._steps: Iterator[Step] = iter(())
        self._reading: deque[tuple[Fed, list[Future[None]]]] = deque()
        self._free: list[Memory] = []
        self.fed: deque[Fed] = deque()
        self.waited = Waited()

    def start(self, steps: Iterator[Step]) -> None:
        """Hand out these from now on."""
        for _, tasks in self._reading:  # their memory is not used again: some tasks may have begun
            for task in tasks:
                task.cancel()
        self._reading.clear()
        self._fetches.forget()
        self._steps = steps

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._fetches.close()

    def take(self) -> Fed | None:
        """The next step, read; None at the end."""
        while len(self._reading) <= self._ahead and (step := next(self._steps, None)) is not None:
            self._reading.append(self._begin(step))
        if not self._reading:
            return None
        fed, tasks = self._reading.popleft()
        began = time.perf_counter()
        for task in tasks:
            task.result()
        self.waited.threads_s += time.perf_counter() - began
        return fed

    def __call__(self, info: Any) -> tuple[Any, ...]:
        """What DALI asks for: the encoded images and columns of the next step."""
        began = time.perf_counter()
        try:
            return self._give()
        finally:
            self.waited.feeding_s += time.perf_counter() - began

    def _give(self) -> tuple[Any, ...]:
        from nvidia.dali import tensors

        if (fed := self.take()) is None:
            raise StopIteration  # tells DALI that the epoch is over
        # Made into its own lists here: arrays one by one would take it several times as long.
        columns = [np.ascontiguousarray(column, dtype=np.int32) for column in self.columns(fed)]
        make_list: Any = tensors.TensorListCPU  # its stub lags behind
        encoded = make_list([tensors.TensorCPU(data) for data in fed.encoded], contiguous=False)
        fed.given = (encoded, *map(make_list, columns))
        self.fed.append(fed)
        return fed.given

    def done(self) -> Fed:
        """The step whose output DALI has put out: it needs that step's images no longer."""
        fed = self.fed.popleft()
        fed.encoded, fed.given = [], ()
        fed.memory.clear()
        self._free.append(fed.memory)
        fed.join(pinned=self._spec.device == "gpu")
        return fed

    def failed(self) -> Fed:
        """The step whose output DALI could not make; its memory is not used again."""
        return self.fed.popleft()

    def columns(self, fed: Fed) -> list[np.ndarray]:
        """The numbers beside the images; where another image is in the place of a row's, such that it has them all."""
        boxes, others = fed.step.boxes, list(fed.ours)
        if isinstance(boxes, CropBoxes):
            corners, sizes = _pairs(boxes.x, boxes.y), _pairs(boxes.w, boxes.h)
            corners[others], sizes[others] = 0, 1
            return [corners, sizes, boxes.flip][: self._spec.columns]
        size, corners = np.stack([boxes.height, boxes.width], axis=1), _pairs(boxes.x, boxes.y)
        size[others], corners[others] = self._stream.crops.size, 0
        return [size, corners, boxes.flip][: self._spec.columns]

    def _begin(self, step: Step) -> tuple[Fed, list[Future[None]]]:
        count = len(step.sources)
        memory = self._free.pop() if self._free else Memory()
        fed = Fed(step, [self._in_place] * count, memory, self._mine(step))
        self._fetches.expect(step.sources)
        return fed, [self._pool.submit(self._read, fed, rows) for rows in chunks(count, self._workers)]

    def _mine(self, step: Step) -> np.ndarray:
        """Rows that our threads make: what DALI cannot, and their share of the rest, by (seed, epoch, sample): bool [B]."""
        crops, share = self._stream.crops, self._spec.decoding.host_share
        mine = _too_long(step.boxes)
        if isinstance(crops, TrainCrops) and crops.scaled_decode:
            mine |= [decode_scale(crops, step.boxes, row) > 1 for row in range(len(mine))]
        if share > 0:
            u = uniform(self._stream.seed, step.epoch, _HOST, step.samples, 1, step.occurrences)
            mine |= u[:, 0] < share
        return mine

    def _read(self, fed: Fed, rows: range) -> None:
        for row in rows:
            try:
                if fed.mine[row]:
                    data = self._fetches.read(int(fed.step.sources[row]))
                    fed.ours[row] = drawn(self._stream, fed.step, row, data)
                    continue
                encoded = self._plain(int(fed.step.sources[row]), fed.memory)
                if isinstance(encoded, bytes):
                    fed.ours[row] = drawn(self._stream, fed.step, row, encoded)
                else:
                    fed.encoded[row] = encoded
            except DecodeError as error:
                fed.ours[row] = error

    def _plain(self, source: int, memory: Memory) -> np.ndarray | bytes:
        """What DALI decodes of an image, uint8 [n]; or all of its bytes, where it decodes nothing of it."""
        began_ns = time.time_ns()
        index = self._stream.index
        with self._fetches.open(source) as file:
            before = file.condition()
            known = self._looks.known(source, before)
            offset, count = file.place(before)
            parts = self._looks.parts(source, count) if known else None
            if parts:
                encoded = memory.take(sum(end - start for start, end in parts))
                if _filled(encoded, file, offset, parts) and file.condition() == before:
                    return encoded
                known = False  # it is changing under our hands
            data = file.read()
            after = file.condition()
        known = known and after == before
        if known and parts is None:
            return data
        parts = plain_parts(data, int(index.widths[source]), int(index.heights[source]), whole=known)
        if not known:
            self._looks.note(source, after, began_ns, parts)
        return data if parts is None else np.frombuffer(joined(data, parts), dtype=np.uint8)


def drawn(stream: Stream, step: Step, row: int, data: bytes | None = None) -> np.ndarray:
    """The crops of a row, from its encoded bytes where they are read: uint8 [V, 3, S, S]; raises as ``load_image``."""
    crops = stream.crops
    pixels = load_image(stream.index, int(step.sources[row]), data, decode_scale(crops, step.boxes, row))
    made = np.empty((crops.per_image, 3, crops.size, crops.size), dtype=np.uint8)
    render_crops(pixels, step.boxes, row, crops.interpolation, made)
    return made


def _too_long(boxes: CropBoxes | ResizedCrops) -> np.ndarray:
    """Rows whose resized image would take gigabytes: bool [B]."""
    if isinstance(boxes, CropBoxes):
        return np.zeros(len(boxes.x), dtype=bool)
    return boxes.width * boxes.height > MAX_RESIZED_PIXELS


def _filled(out: np.ndarray, file: ImageFile | StoredImage, offset: int, parts: Ranges) -> bool:
    """Fill uint8 [n] with parts of an image that lies at ``offset``; whether they were all there."""
    room, filled = out.data, 0
    for start, end in parts:
        if not file.read_into(offset + start, room[filled : filled + end - start]):
            return False
        filled += end - start
    return True


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two [B, V] columns to [B, 2 V], alternating."""
    return np.stack([first, second], axis=2).reshape(len(first), -1)
