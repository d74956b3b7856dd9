"""Runs the DALI pipeline in a thread of its own, so that what DALI does in Python is not done by the thread that trains.

What the pipeline's turn takes of Python (the next step's numbers, its images and columns made into DALI's lists) and the wait for
a batch are here; who takes the batches finds one ready. DALI's worker processes (``parallel=True``) would not do it: they
have to be forked before CUDA starts, and the thread that runs the pipeline takes up what they send sample by sample.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from fastlift.data.loading.dali.feed import Fed, Feed
from fastlift.data.loading.looks import Looks
from fastlift.data.sampling.stream import Step


@dataclass
class Made:
    """What DALI made of a step: its list of crops, complete also where they lie on a GPU; or why it failed."""

    fed: Fed
    output: Any
    error: RuntimeError | None = None


class Runner:
    """Takes batches out of a pipeline in order, ``ahead`` of them before they are asked for."""

    def __init__(self, feed: Feed, pipeline: Any, ahead: int, looks: Looks | None = None) -> None:
        """``looks`` are saved at the end of each epoch, and of all."""
        self._feed, self._pipeline, self._ahead, self._looks = feed, pipeline, ahead, looks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastlift-dali")
        self._coming: deque[Future[Made | None]] = deque()

    def start(self, steps: Iterator[Step]) -> None:
        """Make these from now on; those before have been made, or ``stop`` was called."""
        self._feed.start(steps)

    def next(self) -> Made | None:
        """The next batch, None after the last one; raises what reading raises, or making up the steps."""
        while len(self._coming) <= self._ahead:
            self._coming.append(self._thread.submit(self._run))
        return self._coming.popleft().result()

    def stop(self) -> None:
        """Take out what is still in the making, so that the next start is a clean one.

        Done by who calls: where the collector of garbage does, the thread has ended, and would never do it.
        """
        for coming in self._coming:
            if not coming.cancel():
                wait([coming])
        self._coming.clear()
        self._feed.start(iter(()))
        with contextlib.suppress(RuntimeError):  # of a GPU that fails for good; what went wrong was told before
            while self._run() is not None:
                pass
        self._pipeline.reset()
        self._feed.fed.clear()

    def close(self) -> None:
        """End the threads, the feed's too, and let go of the pipeline."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._feed.close()
        self._save()
        self._pipeline = None

    def _run(self) -> Made | None:
        try:
            # Without a stream: it comes back when the batch is complete, so that no stream has to wait for anything.
            began, fed_s = time.perf_counter(), self._feed.waited.feeding_s
            (output,) = self._pipeline.run()
            self._feed.waited.dali_s += time.perf_counter() - began - (self._feed.waited.feeding_s - fed_s)
        except StopIteration:
            self._save()
            return None
        except RuntimeError as error:
            if not self._feed.fed:
                raise
            return Made(self._feed.failed(), None, error)
        return Made(self._feed.done(), output)

    def _save(self) -> None:
        if self._looks is not None:
            self._looks.save()
