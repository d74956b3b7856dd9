"""A whole optimiser step in a CUDA graph: the host copies a batch, and replays what was recorded.

With several processes the collectives of a step stand between the graphs that they cut it into: one before the gradients are
added up, one after, and one more for each part of a batch where the loss compares its images. So the ranks need not record or
replay at the same time, and a rank that cannot record takes its steps beside the others' replays.

Recorded is ``Learner.step`` as it stands: micro-batches, loss, backward, the watch, the update and the sums. What it reads
from the host would be frozen with it. So the batch lies in static buffers, the learning rate on the device, steps are counted
on both sides, and what trains is updated where it lies. No step is repeated or undone for it: the first full steps are taken
as always, on the stream that will record; recording itself computes nothing.

A graph lives in one process and cannot be kept for another: each run records its own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fastlift.data.loading.mixed import Mixed
from fastlift.errors import is_out_of_memory
from fastlift.training.distributed import Collectives
from fastlift.training.step import Learner

WARM_UP = 3  # steps in a row alike, in which libraries start and code is compiled, before one is recorded
Result = TypeVar("Result")


class Graphs(Protocol):
    """What records work of a device."""

    def queue(self, work: Callable[[], Result], on_wait: Callable[[str], object] | None = None) -> Result:
        """Do ``work`` where it can be recorded later; ``on_wait`` is told where the host waited in it for the device."""
        ...

    def record(self, work: Callable[[], object], collectives: Collectives) -> Callable[[], object]:
        """Record ``work`` without doing it; what is returned does it, with ``collectives`` in their places.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...

    def forget(self) -> None:
        """Give back the memory of records that nobody holds any more."""
        ...


class CudaGraphs:
    """CUDA graphs of one GPU, recorded on a stream of their own.

    Autograd adds gradients up on the stream on which a parameter was first used. So the steps before are queued there too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def queue(self, work: Callable[[], Result], on_wait: Callable[[str], object] | None = None) -> Result:
        before = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(before)
        try:
            with torch.cuda.stream(self.stream), nullcontext() if on_wait is None else _waits_told(on_wait):
                return work()
        finally:
            before.wait_stream(self.stream)

    def record(self, work: Callable[[], object], collectives: Collectives) -> Callable[[], object]:
        parts: list[Callable[[], object]] = []
        pool, thread, recording = torch.cuda.graph_pool_handle(), threading.get_ident(), ExitStack()

        def begin() -> None:
            graph = torch.cuda.CUDAGraph()
            # Only this thread must do nothing that cannot be recorded: those of the loader allocate pinned memory meanwhile.
            recording.enter_context(
                torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local")
            )
            parts.append(graph.replay)

        def cut(collective: Callable[[], object]) -> None:
            if threading.get_ident() != thread:  # autograd's: only the thread that began a graph can end it
                raise RuntimeError("a collective in the backward pass cannot stand between two graphs")
            recording.close()
            parts.append(collective)
            begin()

        # Where recording fails, torch's context leaves its stream the current one; the outer context gives it back.
        with torch.cuda.stream(torch.cuda.current_stream(self.device)), recording, collectives.left_to(cut):
            begin()
            work()

        def replay() -> None:
            for part in parts:
                part()

        return replay

    def forget(self) -> None:
        torch.cuda.empty_cache()


@contextmanager
def _waits_told(tell: Callable[[str], object]) -> Iterator[None]:
    """Tell the place in the code of what waits for a GPU meanwhile, by torch's own watch."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(max(mode, 1))  # 1 warns; 2, a caller's, raises
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "synchronizing CUDA operation" in str(warning.message):
            tell(f"{Path(warning.filename).name}:{warning.lineno}")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class CapturedStep:
    """``Learner.step``, replayed wherever the steps before were like it.

    A graph is recorded after ``WARM_UP`` steps in a row that are alike: in the shapes of the batch, in what changes the
    work (micro-batch, activation checkpointing, dtype, the watch), and in the memory that they work on. Other steps, such as
    that of an epoch's last batch, pass it by. Parameters get the same bits either way, but for the learning rate, which
    is rounded to fp32.

    Args:
        learner: whose steps are taken; its ``set_lr`` fills the learning rate on the device from now on.
        say: told once of each record, or why there is none.
        graphs: what records; default: CUDA graphs, where the learner is on a GPU.
    """

    def __init__(self, learner: Learner, say: Callable[[str], object], graphs: Graphs | None = None) -> None:
        self.learner, self._say = learner, say
        self._graphs: Graphs | None = None
        self._told: set[str] = set()
        self._refused: set[Hashable] = set()
        self._kind: Hashable = None  # of the step before
        self._alike = 0  # steps of this kind in a row
        self._recorded: Hashable = None
        self._replay: Callable[[], object] | None = None
        self._batch: dict[str, Tensor] = {}  # that the record reads
        self._stop: Callable[[], bool] = lambda: False  # that a replay asks, among several processes
        device = learner.sums.loss.device
        if graphs is None and device.type != "cuda":
            self._tell("not captured in a CUDA graph: it runs on a CPU")
        elif learner.shard is not None:  # only the thread that began a graph could end it there
            self._tell("not captured in a CUDA graph: a split classifier's processes exchange in the backward pass too")
        else:
            self._graphs = graphs or CudaGraphs(device)
            for group in learner.optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
                if "capturable" in group and device.type == "cuda":  # torch's AdamW refuses to be recorded without
                    group["capturable"] = True

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        whole: Tensor | None = None,
        stop: Callable[[], bool] = lambda: False,
        mixed: Mixed | None = None,
    ) -> bool:
        """One update, as by ``Learner.step``."""
        if self._graphs is None:
            return self.learner.step(images, labels, whole, stop, mixed)
        self._stop = stop
        batch = {"images": images, "labels": labels} | ({} if mixed is None else mixed._asdict())
        if whole is not None and whole is not labels:
            batch["whole"] = whole
        kind = self._kind_of(batch)
        self._alike = self._alike + 1 if kind == self._kind else 1
        self._kind = kind
        if kind != self._recorded and self._alike > WARM_UP and kind not in self._refused:
            self._record(kind, batch)
        if kind != self._recorded or self._replay is None:
            return self._pass_by(lambda: self.learner.step(images, labels, whole, stop, mixed))
        for name, given in batch.items():
            self._batch[name].copy_(given, non_blocking=True)
        self._replay()
        self.learner.count(len(batch.get("whole", labels)))
        return stop() if self.learner.reducer is None else self.learner.reducer.stopping

    def release(self) -> None:
        """Give back the graph's memory; steps to come record another."""
        self._replay, self._recorded, self._batch, self._alike = None, None, {}, 0
        self.learner.optimizer.zero_grad(set_to_none=True)  # gradients lie in it
        if self._graphs is not None:
            self._graphs.forget()

    def _kind_of(self, batch: dict[str, Tensor]) -> Hashable:
        """What a record holds for: shapes, settings, and where everything lies that a step changes."""
        learner, vit = self.learner, self.learner.model.vit
        sums, watch = learner.sums, learner.watch
        registers = (sums.loss, sums.correct, sums.left_out, watch.number, watch.first, watch.skipped)
        state = (*learner.parameters.values(), *learner.kept().values(), *registers)
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        return (
            tuple((name, given.shape, given.dtype) for name, given in batch.items()),
            (
                learner.micro_batch,
                learner.clip_grad,
                watch.mode,
                vit.compute_dtype,
                getattr(vit, "activation_checkpointing", None),
            ),
            tuple(tensor.data_ptr() for tensor in state),
            tuple(rate.data_ptr() if isinstance(rate, Tensor) else rate for rate in rates),
        )

    def _record(self, kind: Hashable, batch: dict[str, Tensor]) -> None:
        """Record a step on buffers like ``batch``, in place of what was recorded before."""
        assert self._graphs is not None
        learner = self.learner
        self.release()
        counted = learner.watch.taken, learner.sums.images
        try:
            static = {name: given.clone() for name, given in batch.items()}
            mixed = Mixed(static["other"], static["share"]) if "share" in static else None
            images, labels, whole = static["images"], static["labels"], static.get("whole")
            replay = self._graphs.record(
                lambda: learner.step(images, labels, whole, lambda: self._stop(), mixed), learner.world.collectives
            )
        except RuntimeError as error:
            learner.optimizer.zero_grad(set_to_none=True)  # gradients may lie in what was recorded so far
            self._refuse(kind, "memory ran out" if is_out_of_memory(error) else str(error).splitlines()[0])
            return
        finally:
            learner.watch.taken, learner.sums.images = counted  # nothing was done yet
        self._replay, self._recorded, self._batch = replay, kind, static
        self._tell(f"captured in a CUDA graph, for {len(images)} images")

    def _refuse(self, kind: Hashable, reason: str) -> None:
        self._refused.add(kind)
        self._tell(f"not captured in a CUDA graph: {reason}")

    def _tell(self, message: str) -> None:
        """Once."""
        if message not in self._told:
            self._told.add(message)
            self._say(f"training step {message}")

    def _pass_by(self, work: Callable[[], bool]) -> bool:
        """Take a step without the graph; where memory runs out, the graph's is given back for it.

        Not where the step has begun to exchange something with other processes, which would not do it again.
        """
        assert self._graphs is not None
        learner, kind = self.learner, self._kind
        before = learner.watch.taken, learner.world.collectives.number
        # By the last step before a record all is loaded and compiled: what waits there would break the record.
        on_wait = partial(self._waited, kind) if self._alike == WARM_UP else None
        try:
            return self._graphs.queue(work, on_wait)
        except Exception as error:
            now = learner.watch.taken, learner.world.collectives.number
            if not is_out_of_memory(error) or self._replay is None or now != before:
                raise
        self.release()
        return self._graphs.queue(work)

    def _waited(self, kind: Hashable, place: str) -> None:
        self._refuse(kind, f"the host waits in it for the GPU ({place})")
