"""What DALI is given: the encoded pictures of each step, read and looked at by threads before it comes to them.

DALI's decoders end the process on bytes that they do not recognise, and show some pictures otherwise than Pillow. So it gets
plain JPEGs of the indexed size alone (``jpeg.plain_jpeg``), without their metadata; in place of everything else it gets a
tiny picture that nobody looks at, and we make those rows.
"""

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlift.data.dali_graph import GraphSpec
from fastlift.data.decode import DecodeError, load_picture, read_encoded
from fastlift.data.finishing import chunks
from fastlift.data.jpeg import plain_jpeg
from fastlift.data.render import MAX_RESIZED_PIXELS
from fastlift.data.stream import Step, Stream
from fastlift.data.views import ResizedCrops, Windows


def _black_jpeg() -> np.ndarray:
    """A JPEG of 8 x 8 black pixels, encoded: uint8 [n]."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


@dataclass
class Fed:
    """A step as DALI got it."""

    step: Step
    pictures: list[np.ndarray]  # uint8 [n] each, what DALI decodes; empty once it has them
    # Rows that DALI does not make: their bytes, or why there are none. Written by the threads that read.
    ours: dict[int, bytes | DecodeError] = field(default_factory=dict)

    def picture(self, stream: Stream, row: int) -> np.ndarray:
        """The pixels of a row that DALI does not make: uint8 [H, W, 3].

        Raises:
            DecodeError: it is broken.
        """
        data = self.ours[row]
        if isinstance(data, DecodeError):
            raise data
        return load_picture(stream.index, int(self.step.sources[row]), data)


class Feed:
    """DALI's source: hands out the steps that it was given as arrays, and remembers them in order."""

    def __init__(self, stream: Stream, spec: GraphSpec, workers: int, ahead: int) -> None:
        """``ahead``: so many steps are read before DALI asks for them."""
        self._stream, self._spec = stream, spec
        self._workers, self._ahead = workers, ahead
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fastlift-read")
        self._in_place = _black_jpeg()
        self._steps: Iterator[Step] = iter(())
        self._reading: deque[tuple[Fed, list[Future[None]]]] = deque()
        self.fed: deque[Fed] = deque()

    def start(self, steps: Iterator[Step]) -> None:
        """Hand out these from now on."""
        for _, tasks in self._reading:
            for task in tasks:
                task.cancel()
        self._reading.clear()
        self._steps = steps

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        while len(self._reading) <= self._ahead and (step := next(self._steps, None)) is not None:
            self._reading.append(self._begin(step))
        if not self._reading:
            raise StopIteration  # tells DALI that the epoch is over
        fed, tasks = self._reading.popleft()
        for task in tasks:
            task.result()
        self.fed.append(fed)
        columns = self._columns(fed)[: self._spec.columns]
        pictures, fed.pictures = fed.pictures, []
        return pictures, *(list(column.astype(np.int32)) for column in columns)

    def _begin(self, step: Step) -> tuple[Fed, list[Future[None]]]:
        count = len(step.sources)
        fed = Fed(step, [self._in_place] * count)
        return fed, [self._pool.submit(self._read, fed, rows) for rows in chunks(count, self._workers)]

    def _read(self, fed: Fed, rows: range) -> None:
        index, too_long = self._stream.index, self._too_long(fed.step.views)
        for row in rows:
            source = int(fed.step.sources[row])
            try:
                data = read_encoded(index, source)
            except DecodeError as error:
                fed.ours[row] = error
                continue
            plain = plain_jpeg(data, int(index.widths[source]), int(index.heights[source]))
            if plain is None or too_long[row]:
                fed.ours[row] = data
            else:
                fed.pictures[row] = plain

    def _too_long(self, views: Windows | ResizedCrops) -> np.ndarray:
        """Rows whose resized picture would take gigabytes, where the graph resizes: bool [B]."""
        if self._spec.pixels_only or isinstance(views, Windows):
            return np.zeros(len(views.x), dtype=bool)
        return views.width * views.height > MAX_RESIZED_PIXELS

    def _columns(self, fed: Fed) -> list[np.ndarray]:
        """The numbers beside the pictures; where another picture is in the place of a row's, such that it has them all."""
        views, others = fed.step.views, list(fed.ours)
        if isinstance(views, Windows):
            corners, sizes = _pairs(views.x, views.y), _pairs(views.w, views.h)
            corners[others], sizes[others] = 0, 1
            return [corners, sizes, views.flip]
        size, corners = np.stack([views.height, views.width], axis=1), _pairs(views.x, views.y)
        size[others], corners[others] = self._stream.views.size, 0
        return [size, corners, views.flip]


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two [B, V] columns to [B, 2 V], alternating."""
    return np.stack([first, second], axis=2).reshape(len(first), -1)
