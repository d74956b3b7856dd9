"""What the op benchmarks run: inputs, the three ways to run each op, and its floating-point operations and bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config

import fastlift_kernels

# "backward" alone runs one graph again and again, which compiled graphs refuse while they give their buffers away.
torch._functorch.config.donated_buffer = False

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
FUSED = "triton" if DEVICE == "cuda" else "native"
WAYS = ("eager", "compile", "fused")
DIRECTIONS = ("forward", "backward", "both")


@dataclass(frozen=True)
class Workload:
    """One op on one shape. ``call(impl)`` gives its outputs; ``flops`` and ``bytes`` are those of (forward, backward)."""

    name: str
    call: Callable[[str], Any]
    wanted: list[torch.Tensor]
    flops: tuple[float, float]
    bytes: tuple[float, float]  # the fused op's, from traffic.py

    def runner(self, way: str, direction: str) -> Callable[[], Any]:
        """A function that runs this workload once, compiled beforehand where asked."""
        impl = FUSED if way == "fused" else "reference"
        torch._dynamo.reset()  # all workloads share this code: past its limit of recompilations it would run eagerly
        function = torch.compile(lambda: self.call(impl)) if way == "compile" else lambda: self.call(impl)
        if direction == "forward":
            return lambda: self._forward(function)
        outputs = self._outputs(function)
        seeds = [torch.ones_like(x) if x.dim() == 0 else torch.randn_like(x) for x in outputs]
        if direction == "backward":
            return lambda: torch.autograd.grad(outputs, self.wanted, seeds, retain_graph=True)
        return lambda: torch.autograd.grad(self._outputs(function), self.wanted, seeds)

    def work(self, direction: str) -> tuple[float, float]:
        """(floating-point operations, bytes) of a direction."""
        chosen = {"forward": slice(0, 1), "backward": slice(1, 2), "both": slice(0, 2)}[direction]
        return sum(self.flops[chosen]), sum(self.bytes[chosen])

    @staticmethod
    def _forward(function: Callable[[], Any]) -> Any:
        with torch.no_grad():
            return function()

    @staticmethod
    def _outputs(function: Callable[[], Any]) -> list[torch.Tensor]:
        outputs = function()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [x for x in outputs if x is not None and x.requires_grad]


def adapter(tokens: int, width: int, rank: int) -> Workload:
    """The adapter beside the MLP, everything that can learn learning."""
    from traffic import adapter_backward_native, adapter_forward, adapter_on_a_gpu

    size = DTYPE.itemsize

    def parameter(*shape: int, by: float = 0.1, around: float = 0.0) -> torch.Tensor:
        return (torch.randn(*shape, device=DEVICE) * by + around).requires_grad_()

    t = torch.randn(tokens, width, device=DEVICE, dtype=DTYPE, requires_grad=True)
    frozen = [parameter(width, around=1.0).detach(), parameter(width).detach()]
    learned = [
        parameter(width, around=1.0), parameter(width), parameter(rank, width, by=0.03), parameter(rank),
        parameter(width, rank, by=0.03), parameter(width), parameter(1, around=1.0),
    ]  # fmt: skip
    forward, backward = adapter_forward(width, rank, size, hidden=4), adapter_backward_native(width, rank, size)
    if DEVICE == "cuda":
        multiprocessors = torch.cuda.get_device_properties(t.device).multi_processor_count
        forward, backward = adapter_on_a_gpu(width, rank, size, tokens, multiprocessors)
    product = 2.0 * tokens * width * rank
    return Workload(
        f"adapter {tokens}x{width} rank {rank}",
        lambda impl: fastlift_kernels.adapter(t, *frozen, *learned, impl=impl),  # type: ignore[arg-type]
        [t, *learned],
        (2 * product, 4 * product),
        (forward.per_token(tokens) * tokens, backward.per_token(tokens) * tokens),
    )


def activation(tokens: int, width: int, kind: str) -> Workload:
    """An activation on the hidden layer of an MLP."""
    x = torch.randn(tokens, width, device=DEVICE, dtype=DTYPE, requires_grad=True)
    size = x.numel() * DTYPE.itemsize
    function = getattr(fastlift_kernels, kind)
    return Workload(f"{kind} {tokens}x{width}", lambda impl: function(x, impl=impl), [x], (0, 0), (2 * size, 3 * size))


def attention(images: int, tokens: int, width: int, heads: int) -> Workload:
    """Attention of the packed product of a whole batch; on a CPU the op is the library's."""
    from traffic import attention as traffic

    packed = torch.randn(images, tokens, 3 * width, device=DEVICE, dtype=DTYPE, requires_grad=True)
    product = 2.0 * images * tokens**2 * width
    forward, backward = (x.token * images * tokens for x in traffic(width, heads, DTYPE.itemsize))

    def call(impl: str) -> torch.Tensor:
        return fastlift_kernels.attention(packed, heads, impl=None if impl == "native" else impl)  # type: ignore[arg-type]

    name = f"attention {images}x{tokens}x{width} heads {heads}"
    return Workload(name, call, [packed], (2 * product, 5 * product), (forward, backward))


def classifier(batch: int, width: int, classes: int) -> Workload:
    """The cosine classifier with the logit-adjusted loss."""
    from traffic import classifier as traffic

    features = torch.randn(batch, width, device=DEVICE, dtype=DTYPE, requires_grad=True)
    weight = torch.randn(classes, width, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, classes, (batch,), device=DEVICE)
    prior = torch.rand(classes, device=DEVICE).log()
    moved = traffic(batch, width, classes, DTYPE.itemsize)["GPU" if DEVICE == "cuda" else "native"]
    product = 2.0 * batch * width * classes
    return Workload(
        f"classifier {batch}x{width}x{classes}",
        lambda impl: fastlift_kernels.cosine_cross_entropy(features, weight, labels, prior, impl=impl),  # type: ignore[arg-type]
        [features, weight],
        (product, 2 * product),
        (moved[0].token * batch + moved[0].call, moved[1].token * batch + moved[1].call),
    )


def workloads(large: bool = False) -> list[Workload]:
    """The shapes of the bars on a CPU: a batch of 16 ViT-B/16 images."""
    tokens = 3152
    found = [adapter(tokens, 768, rank) for rank in (4, 32, 256)]
    found += [activation(tokens, 3072, kind) for kind in ("quick_gelu", "gelu")]
    found += [attention(16, 197, 768, 12), classifier(128, 768, 8142)]
    if large:
        found += [classifier(4096, 768, 8142), classifier(256, 768, 100_000)]
    return found
