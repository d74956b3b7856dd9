"""A step on N H100s, computed from counted FLOP and bytes (``benchmarks/counting.py``) and from the rates of the links.

Nothing in it was measured on more than one process's share of a CPU. A step takes the longer of its kernels and its launches, and
after it what the gradients take that does not hide behind the backward pass. Waiting for data and for slow machines is left out.

Legend: N GPUs on M nodes of up to eight, b images a GPU, S bytes, C classes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.counting import PRODUCTS, REST, Part, Shape, backbone, evaluation_parts, parts, trained
from benchmarks.ops.traffic import classifier
from benchmarks.roofline import CARDS
from fastlift.training.reducer import SEGMENT_BYTES

CARD = CARDS[0]  # an H100
GPUS_A_NODE = 8
# NVLink of an H100: 900 GB/s both ways together. The share of a link's rate that a collective reaches is an assumption.
NVLINK_GB_PER_S, NVLINK_SHARE, NETWORK_SHARE = 450.0, 0.8, 0.9
# Latencies in microseconds, those that NCCL's tuner assumes (src/graph/tuning.cc, protocol Simple): of a start, of a hop of a ring
# over NVLink, of a sum by the switch (NVLS), of a hop over the network.
START_US, RING_US, NVLS_US, NETWORK_US = 8.4, 3.4, 25.0, 14.0
# What the host needs to launch an op, and a GPU at least for one of a CUDA graph: assumptions. The ops of a step were counted
# (benchmarks/results/end_to_end.json), views among them.
OPS, EAGER_US, CAPTURED_US = 951, 5.0, 1.0


@dataclass(frozen=True)
class Network:
    """What connects nodes.

    Attributes:
        gb_per_s: of a node in one direction, for all of its GPUs together.
    """

    name: str
    gb_per_s: float


NETWORKS = (
    Network("100 Gb/s a node", 12.5),
    Network("400 Gb/s a node", 50.0),
    Network("400 Gb/s a GPU", 400.0),
)
SLOW = NETWORKS[0]


def _layout(gpus: int) -> tuple[int, int]:
    """(GPUs of a node that take part, nodes)."""
    return min(gpus, GPUS_A_NODE), -(-gpus // GPUS_A_NODE)


def all_reduce_s(size: float, gpus: int, network: Network) -> float:
    """Seconds until all GPUs have the sum of ``size`` bytes: inside the nodes by ring or switch, between them by ring or tree."""
    here, nodes = _layout(gpus)
    if gpus == 1:
        return 0.0
    nvlink, wire = 1e9 * NVLINK_GB_PER_S * NVLINK_SHARE, 1e9 * network.gb_per_s * NETWORK_SHARE
    ring = 2 * (here - 1) / here * size / nvlink + 2e-6 * (here - 1) * RING_US
    switch = (1 + 1 / here) * size / nvlink + 1e-6 * NVLS_US
    inside = min(ring, switch)
    if nodes == 1:
        return inside + 1e-6 * START_US
    around = 2 * (nodes - 1) / nodes * size / wire + 2e-6 * (nodes - 1) * NETWORK_US
    tree = 2 * size / wire + 2e-6 * math.ceil(math.log2(nodes)) * NETWORK_US
    return inside + min(around, tree) + 1e-6 * START_US


def all_gather_s(size: float, gpus: int, network: Network) -> float:
    """Seconds until all GPUs have all ``size`` bytes, of which each had its part, by a ring; a reduce-scatter takes as long."""
    here, nodes = _layout(gpus)
    if gpus == 1:
        return 0.0
    nvlink, wire = 1e9 * NVLINK_GB_PER_S * NVLINK_SHARE, 1e9 * network.gb_per_s * NETWORK_SHARE
    inside = (here - 1) / here * size / nvlink + 1e-6 * (here - 1) * RING_US
    between = (nodes - 1) / nodes * size / wire + 1e-6 * (nodes - 1) * NETWORK_US
    return inside + between + 1e-6 * START_US


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

    Attributes:
        trains: ``lift`` adapters and classifier; ``full`` the backbone too; ``sharded`` as ``lift``, the classifier split by class.
        captured: whether a step is one CUDA graph.
    """

    name: str
    shape: Shape
    trains: Literal["lift", "full", "sharded"] = "lift"
    captured: bool = False

    @property
    def gradient_bytes(self) -> int:
        """What the ranks add up in a step, in fp32."""
        numbers = trained(self.shape) + (backbone(self.shape) if self.trains == "full" else 0)
        own_rows = self.shape.classes * self.shape.width if self.trains == "sharded" else 0
        return 4 * (numbers - own_rows)


VIT_L = Shape(tokens=257, width=1024, mlp=4096, heads=16, depth=24, patch=14)
LIFT = Training("ViT-B/16, LIFT", Shape())
CAPTURED = replace(LIFT, captured=True)
LARGE = Training("ViT-L/14, LIFT", VIT_L)
FULL = Training("ViT-B/16, full fine-tuning", Shape(), "full")
TRAININGS = (LIFT, LARGE, FULL)


def with_classes(classes: int, sharded: bool) -> Training:
    """LIFT on a ViT-B/16 with so many classes."""
    name = f"{classes:,} classes, {'split' if sharded else 'on every GPU'}"
    return Training(name, replace(Shape(), classes=classes), "sharded" if sharded else "lift")


@dataclass(frozen=True)
class Step:
    """Seconds of a step: its kernels, its launches, and what the GPUs exchange while none of their kernels can run."""

    kernels: float
    launches: float
    exchange: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return max(self.kernels, self.launches) + self.exchange


def step(training: Training, images: int, gpus: int, network: Network) -> Step:
    """A step of ``images`` a GPU."""
    found = kernel_parts(training, images, gpus)
    kernels = sum(CARD.ms(part, images) for part in found) / 1e3
    forward = sum(CARD.ms(part, images) for part in evaluation_parts(training.shape, images)) / 1e3
    launches = 1e-6 * OPS * (CAPTURED_US if training.captured else EAGER_US)

    def summed(size: float) -> float:
        return all_reduce_s(size, gpus, network)

    exchange = exposed_s(training.gradient_bytes, max(kernels - forward, 0.0), summed)
    if training.trains == "sharded":
        exchange += classes_exchange_s(training.shape, images, gpus, network)
    return Step(kernels, launches, exchange)


def exposed_s(size: float, backward_s: float, summed: Callable[[float], float]) -> float:
    """What is left to wait for behind the backward pass: all of a small buffer; of a large one at least its last segment."""
    segments = max(math.ceil(size / SEGMENT_BYTES), 1)
    one = summed(size / segments)
    return one if segments == 1 else max(one, segments * one - backward_s)


def kernel_parts(training: Training, images: int, gpus: int) -> list[Part]:
    """What one GPU computes in a step."""
    shape = training.shape
    found = parts(shape, images)
    if training.trains == "full":
        # Each product forward has one more backward, for its weight's gradient, which reads what that one read and wrote. The
        # optimiser moves the backbone too; the adapter's part stands for what it replaces.
        forward = [part for part in evaluation_parts(shape, images) if part.group == PRODUCTS]
        found += [replace(part, name=f"{part.name}, dw") for part in forward]
        found.append(Part("optimiser of the backbone", REST, 0, backbone(shape) * 4 * 6 / images))
    if training.trains == "sharded":
        own = -(-shape.classes // gpus)
        ways = classifier(images * gpus, shape.width, own, shape.bytes)["GPU"]
        flop = 3 * 2.0 * shape.width * own * gpus  # an image of this GPU: the own classes, for the images of all
        moved = sum(way.token * gpus + way.call / images for way in ways)
        found = [part for part in found if part.group != REST]
        found += [
            Part("classifier with its loss", REST, flop, moved),
            Part("optimiser", REST, 0, (training.gradient_bytes / 4 + own * shape.width) * 4 * 6 / images),
        ]
    return found


def classes_exchange(shape: Shape, batch: int) -> tuple[list[int], list[int]]:
    """Bytes that a split classifier exchanges for its loss (``fastlift/training/class_shards.py``): gathered, and reduced.

    Forward gathers features and labels and reduces the largest logits, the predictions and the sums; backward gathers the losses'
    gradients, and adds up and scatters those of the features, in fp32.
    """
    gathered = [batch * shape.width * shape.bytes, batch * 8, batch * 4, batch * shape.width * 4]
    return gathered, [batch * 8, batch * 8, batch * 8]


def classes_exchange_s(shape: Shape, images: int, gpus: int, network: Network) -> float:
    """What that takes: a reduce-scatter as long as a gather."""
    gathered, reduced = classes_exchange(shape, images * gpus)
    return sum(all_gather_s(size, gpus, network) for size in gathered) + sum(
        all_reduce_s(size, gpus, network) for size in reduced
    )


def images_per_s(training: Training, images: int, gpus: int, network: Network) -> float:
    """Of all GPUs."""
    return images * gpus / step(training, images, gpus, network).seconds


def strong(training: Training, batch: int, gpus: int, network: Network) -> float:
    """Images/s with one global batch for any N; GPUs without an image do nothing, so no more than ``batch`` count.

    Raises:
        ValueError: the busy GPUs do not divide the batch.
    """
    busy = min(gpus, batch)
    if batch % busy:
        raise ValueError(f"{busy} GPUs do not divide a batch of {batch}")
    return batch / step(training, batch // busy, gpus, network).seconds


def classifier_gib(classes: int, gpus: int, images: int, sharded: bool) -> float:
    """Memory of a GPU for weight, gradient and momentum, and for its logits or their exponentials, all in fp32.

    The sum's buffer is the gradient. ``images`` are those of a GPU.
    """
    rows, columns = (-(-classes // gpus), images * gpus) if sharded else (classes, images)
    return 4 * rows * (3 * LIFT.shape.width + columns) / 2**30


# Failures

# Meta's Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 H100s (arXiv:2407.21783, section 3.3.4).
GPU_HOURS_A_FAILURE = 16_384 * 54 * 24 / 419


def hours_between_failures(gpus: int) -> float:
    """Of a run that any failure stops."""
    return GPU_HOURS_A_FAILURE / gpus


def interval_s(save_s: float, gpus: int) -> float:
    """Between two checkpoints, for the least time lost: sqrt(2 x save x time between failures) (Young 1974; Daly 2006)."""
    return math.sqrt(2 * save_s * 3600 * hours_between_failures(gpus))


def lost_share(save_s: float, interval: float, restart_s: float, gpus: int) -> float:
    """Of the time: saving, half an interval a failure, and the restart."""
    return save_s / interval + (interval / 2 + restart_s) / (3600 * hours_between_failures(gpus))
