"""``fastlift bench train``: fastlift's step against the reference path's, on the same model, images and labels."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastlift.bench.reference import ReferenceLearner
from fastlift.bench.reference import features as reference_features
from fastlift.bench.rounds import Step, Timing, alternate, count_flop, count_ops, matmul_gflops
from fastlift.engine.memory import saved_bytes, storages
from fastlift.models.compile import compile_backbone
from fastlift.models.create import create_model
from fastlift.models.lift import LiftModel
from fastlift.models.precision import DTYPES
from fastlift.system.device import describe_machine, versions
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner


@dataclass(frozen=True)
class TrainRow:
    """What one way of training costs."""

    images_per_s: float
    step_ms: float
    rounds_ms: tuple[float, ...]
    gflop_per_image: float
    matmul_share: float
    saved_mib_per_image: float
    ops_per_step: int


@dataclass(frozen=True)
class TrainBench:
    """Both ways, and where they were measured."""

    model: str
    batch: int
    rank: int
    classes: int
    amp: str
    matmul_gflops: float
    speedup: float
    loss_difference: float
    compile_s: float | None  # of the first step with a compiled backbone
    rows: dict[str, TrainRow]
    machine: dict[str, Any]
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.model}, batch {self.batch}, rank {self.rank}, {self.classes} classes, {self.amp}")
        for column in ("way", "images/s", "step (ms)", "GFLOP/image", "of matmul rate", "saved MiB/image", "ops/step"):
            table.add_column(column, justify="left" if column == "way" else "right")
        for name, row in self.rows.items():
            cells = (f"{row.images_per_s:.2f}", f"{row.step_ms:,.0f}", f"{row.gflop_per_image:.1f}")
            table.add_row(
                name, *cells, f"{100 * row.matmul_share:.0f} %", f"{row.saved_mib_per_image:.1f}", str(row.ops_per_step)
            )
        facts = (
            f"{self.speedup:.2f} times the reference path (medians of alternated rounds); losses differ by at most "
            f"{self.loss_difference:.1e} relative; matmul rate {self.matmul_gflops:.0f} GFLOP/s"
        )
        return Group(table, Text(facts))


def run(
    model: str = "ViT-B-16-quickgelu",
    *,
    batch: int = 16,
    rank: int = 32,
    classes: int = 1000,
    rounds: int = 5,
    recompute: str = "none",
    compile: bool = False,
    amp: str = "fp32",
    loss_steps: int = 20,
) -> TrainBench:
    """Measure one training step of LIFT both ways, with random weights, on the CPU.

    Args:
        model: an open_clip ViT by name, or a shipped one.
        rounds: timed rounds of one step each way.
        recompute: what fastlift's step computes again in backward: none, mlp or block.
        compile: whether fastlift's backbone is compiled.
        amp: compute dtype of both ways; the reference casts its fp32 weights in every step.
        loss_steps: steps over which the two ways' losses are compared.
    """
    fast, plain = twins(model, rank, classes)
    dtype = DTYPES[amp]
    fast.set_compute_dtype(dtype)
    plain.vit.compute_dtype = dtype
    vit: Any = fast.vit
    vit.activation_checkpointing = recompute
    generator = torch.Generator().manual_seed(0)
    side = fast.preprocessing.image_size
    images = torch.randn(batch, 3, side, side, generator=generator).to(dtype)
    labels = torch.randint(classes, (batch,), generator=generator)
    counts = torch.arange(classes, 0, -1)
    learner = Learner(fast, losses.build("LA", counts), OptimizerSettings(lr=0.01))
    reference = ReferenceLearner(plain, losses.SoftmaxLoss(learner.loss.log_prior), lr=0.01)  # type: ignore[arg-type]
    saved = {
        "fastlift": saved_bytes(lambda: fast.features(images), storages(fast)),
        "reference": saved_bytes(lambda: reference_features(plain, images), storages(plain)),
    }
    steps: dict[str, Step] = {
        "reference": lambda: reference.step(images, labels),
        "fastlift": lambda: learner.step(images, labels),
    }
    # Before compiling: a graph hides its ops from the counters.
    flop, ops = ({name: count(step) for name, step in steps.items()} for count in (count_flop, count_ops))
    compile_s = None
    if compile:
        compile_backbone(fast, "default", {batch})
        start = time.perf_counter()
        steps["fastlift"]()
        compile_s = time.perf_counter() - start
        steps["reference"]()  # both have taken as many steps
    difference = _compare(learner, reference, images, labels, loss_steps)
    rate = matmul_gflops(dtype, rows=batch * vit.sequence_length)
    timings = alternate(steps, rounds)
    rows = {name: _row(timings[name], batch, flop[name], rate, saved[name], ops[name]) for name in steps}
    speedup = timings["reference"].median / timings["fastlift"].median
    machine = describe_machine(torch.device("cpu"))
    return TrainBench(model, batch, rank, classes, amp, rate, speedup, difference, compile_s, rows, machine, versions())


def twins(name: str, rank: int, classes: int) -> tuple[LiftModel, LiftModel]:
    """Two equal LIFT models with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are what a benchmark wants
        torch.manual_seed(0)
        model = create_model(name, class_names=[f"class {i}" for i in range(classes)], rank=rank, init="random")
    return model, copy.deepcopy(model)


def _compare(learner: Learner, reference: ReferenceLearner, images: Tensor, labels: Tensor, steps: int) -> float:
    """Largest relative difference of the two ways' losses over so many steps from the same start."""
    worst = 0.0
    for _ in range(steps):
        learner.sums.restart()
        learner.step(images, labels)
        reference.step(images, labels)
        mine, theirs = learner.sums.read()[0], reference.losses[-1]
        worst = max(worst, abs(mine - theirs) / abs(theirs))
    return worst


def _row(timing: Timing, batch: int, flop: int, rate: float, saved: int, ops: int) -> TrainRow:
    per_image = flop / batch
    return TrainRow(
        images_per_s=batch / timing.median,
        step_ms=1e3 * timing.median,
        rounds_ms=tuple(1e3 * seconds for seconds in timing.seconds),
        gflop_per_image=per_image / 1e9,
        matmul_share=flop / timing.median / 1e9 / rate,
        saved_mib_per_image=saved / batch / 2**20,
        ops_per_step=ops,
    )
