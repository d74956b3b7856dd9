"""The training step in every way that a user can ask for, the most telling ones first."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from benchmarks.counting import step_flop
from benchmarks.gpu.bench import Bench, Skip, outcome_of
from benchmarks.gpu.models import batch_of, learner_of, model_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row
from fastlift.errors import UserError
from fastlift.models.compile import LONGEST, compile_backbone
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fused import Fused, FusedSettings
from fastlift.training.captured import WARM_UP, CapturedStep

MODES = {"default": "default", "max": LONGEST}  # --compile's words for those of torch.compile
TIMED_IMAGES = 1024  # a round takes as many steps as make about so many images
CompileMode = Literal["eager", "default", "max"]


@dataclass(frozen=True)
class Way:
    """One way to take a step."""

    batch: int
    rank: int
    mode: CompileMode = "eager"
    frozen: Literal["compute", "fp8"] = "compute"
    fused: tuple[Fused, ...] = ()
    recompute: Literal["none", "mlp", "block"] = "none"
    impl: Literal["reference"] | None = None
    micro_batch: int | None = None
    captured: bool = False

    @property
    def name(self) -> str:
        """``512 rank 32 eager`` and what is unlike the usual."""
        words = [str(self.batch), f"rank {self.rank}", self.mode]
        words += ["fp8"] if self.frozen == "fp8" else []
        words += [f"fused {name}" for name in self.fused]
        words += [f"recompute {self.recompute}"] if self.recompute != "none" else []
        words += [f"adapter {self.impl}"] if self.impl else []
        words += [f"micro-batch {self.micro_batch}"] if self.micro_batch else []
        words += ["captured"] if self.captured else []
        return " ".join(words)


@dataclass(frozen=True)
class Group:
    """Ways that are timed in turn, and the seconds that it takes: most of them go to compiling."""

    needs_s: float
    ways: tuple[Way, ...]

    @property
    def name(self) -> str:
        return " | ".join(way.name for way in self.ways)


def groups(bench: Bench) -> list[Group]:
    """What is measured, by worth: a budget that is cut keeps the beginning."""
    (large, middle, small), (low, high) = bench.sizes.batches, bench.sizes.ranks
    plain = Way(large, low)
    compiled, longest = replace(plain, mode="default"), replace(plain, mode="max", captured=True)
    return [
        Group(15, (plain, replace(plain, impl="reference"))),
        Group(
            35, (plain, *(replace(plain, fused=names) for names in (("attention",), ("mlp",), ("attention", "mlp"))))
        ),
        Group(40, (plain, compiled)),
        Group(15, (Way(large, high), Way(large, high, impl="reference"))),
        Group(15, (plain, replace(plain, frozen="fp8"))),
        Group(15, _with_and_without_a_graph(Way(small, low), Way(middle, low))),
        Group(70, (plain, longest)),
        Group(15, (plain, replace(plain, recompute="mlp"), replace(plain, recompute="block"))),
        Group(70, (*_with_and_without_a_graph(Way(small, low, "default")), Way(small, low, "max", captured=True))),
        Group(70, (*_with_and_without_a_graph(Way(middle, low, "default")), Way(middle, low, "max", captured=True))),
        Group(40, (compiled, replace(compiled, fused=("attention",)))),
        Group(40, (compiled, replace(compiled, fused=("mlp",)))),
        Group(40, (compiled, replace(compiled, frozen="fp8"))),
        Group(70, (plain, replace(longest, micro_batch=middle))),
        Group(15, _with_and_without_a_graph(plain)),
        Group(40, (compiled, replace(compiled, impl="reference"))),
        Group(40, (Way(large, high), Way(large, high, "default"))),
    ]


def _with_and_without_a_graph(*ways: Way) -> tuple[Way, ...]:
    return tuple(way for each in ways for way in (each, replace(each, captured=True)))


def run(bench: Bench) -> None:
    """All groups; a rehearsal compiles for one of them."""
    compiles = 0
    for group in groups(bench):
        if any(way.mode != "eager" for way in group.ways):
            compiles += 1
            if bench.is_rehearsal and compiles > 1:
                bench.add(group.name, {"name": group.name, "skipped": "a rehearsal compiles one graph"})
                continue
        bench.attempt(group.name, group.needs_s, partial(rows_of, bench, group.ways))


def rows_of(bench: Bench, ways: tuple[Way, ...]) -> Iterator[Row]:
    """Make the contenders ready, each with what is asked of it alone; then time them in turn."""
    torch.compiler.reset()  # contenders share their code: past a limit of graphs a new one would be refused
    steps: dict[str, Callable[[], Any]] = {}
    about: dict[str, Row] = {}
    for way in ways:
        try:
            steps[way.name], about[way.name] = make_ready(bench, way)
        except Exception as error:
            yield {"name": way.name, **outcome_of(error)}
            bench.check_device()
            bench.tidy()
    calls = max(1, TIMED_IMAGES // ways[0].batch) if not bench.is_rehearsal else 1
    times = alternated(bench.clock, steps, bench.sizes.rounds, warmup=1, calls=calls, until=bench.left)
    for way in ways:
        if way.name not in times:
            continue
        measured = times[way.name]
        shape = replace(bench.sizes.vit, rank=way.rank, classes=bench.sizes.classes)
        yield {
            "name": way.name,
            **_settings(way),
            **measured.to_row(),
            "images_per_s": round(1e3 * way.batch / measured.median, 1),
            **bench.shares(measured.median, step_flop(shape) * way.batch),
            **about[way.name],
        }


def _settings(way: Way) -> Row:
    return {
        "batch": way.batch,
        "rank": way.rank,
        "mode": way.mode,
        "frozen": way.frozen,
        "fused": list(way.fused),
        "recompute": way.recompute,
        "impl": way.impl,
        "micro_batch": way.micro_batch,
        "captured": way.captured,
    }


def make_ready(bench: Bench, way: Way) -> tuple[Callable[[], Any], Row]:
    """A step that has been taken, and what is found of it alone: its first time, peak memory, loss, host syncs, host time."""
    model = model_of(bench, way.rank)
    vit: Any = model.vit
    if way.frozen == "fp8":
        _check_fp8(bench)
        Fp8Settings("fp8").build(vit)
    if told := FusedSettings(way.fused).build(vit):
        raise Skip("; ".join(told))
    vit.activation_checkpointing = way.recompute
    for block in vit.blocks:
        block.pre_mlp.adapter.impl = way.impl
    if way.mode != "eager":
        compile_backbone(model, MODES[way.mode], {way.micro_batch or way.batch})
    learner, said = learner_of(bench, model, way.micro_batch), []
    take: Callable[..., bool] = CapturedStep(learner, said.append).step if way.captured else learner.step
    images, labels = batch_of(bench, model, way.batch)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    take(images, labels)
    bench.clock.wait()
    found: Row = {"first_step_s": round(time.perf_counter() - began, 2)}
    for _ in range(WARM_UP):  # the caches' first steps are others than the rest; the last of these is captured
        take(images, labels)
    bench.clock.wait()
    found["steps_before_s"] = round(time.perf_counter() - began, 2)
    if bench.device.type == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    loss = learner.sums.read()[0]
    found["loss"] = round(loss, 4) if math.isfinite(loss) else str(loss)
    found["host_sync"] = sync = host_sync(bench, partial(take, images, labels))
    if sync not in (None, "none"):
        found["error"] = f"a step waits for the GPU: {sync}"
    if not math.isfinite(loss) or int(learner.watch.skipped):
        found["error"] = f"the loss is {loss}, and {int(learner.watch.skipped)} steps were not finite"
    # Of one step with nothing before it in the queue, which holds about so many launches: behind a full one the host waits.
    step = partial(take, images, labels)
    if way.captured:
        found["note"] = "; ".join(said)
        if bench.device.type == "cuda" and not any(sentence.startswith("training step captured") for sentence in said):
            found["error"] = found["note"]
    found["host_ms"] = round(statistics.median(bench.clock.time(step, 1, ahead=False)[1] for _ in range(5)), 4)
    return step, found


def _check_fp8(bench: Bench) -> None:
    """The products of ``--frozen fp8`` run here; newer PyTorch emulates them on a CPU, which is enough to try the code.

    Raises:
        Skip: they do not.
    """
    if bench.is_rehearsal:
        model = model_of(bench, bench.sizes.ranks[0])
        Fp8Settings("fp8").build(model.vit)
        try:
            model.features(batch_of(bench, model, 2)[0])
        except RuntimeError as error:
            raise Skip("this PyTorch does not multiply fp8 with a scale a row on a CPU") from error
        return
    try:
        Fp8Settings("fp8").check(bench.device, bench.dtype)
    except UserError as error:
        raise Skip(str(error)) from error


def host_sync(bench: Bench, step: Callable[[], Any]) -> str | None:
    """What in a step waits for the GPU, by PyTorch's own alarm; "none" where nothing does, None where there is no GPU."""
    if bench.device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return str(error).splitlines()[0][:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"
