"""Host time of an op call: what the processor does until the kernels are on their way, without a GPU.

    python benchmarks/ops/host.py                                        # print
    python benchmarks/ops/host.py --output benchmarks/results/ops_host.json

The Triton paths run whole, Triton's binder and launcher included, on a CUDA driver that does nothing (``libcuda.c``); what
library products and allocations cost on the host is that of tiny CPU tensors. A real launch adds 2 to 3 microseconds of
the driver's own. The native paths run as they are. A call is forward (keeping what backward needs) or backward; of backward
"autograd alone" is what ``torch.autograd.grad`` takes through a function of as many tensors that does nothing.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
CALLS, ROUNDS = 300, 15


def pretend_a_gpu(folder: Path, capability: tuple[int, int] = (9, 0)) -> ctypes.CDLL:
    """Give Triton a driver of the given capability that launches nothing; ``folder`` takes the library, which is returned."""
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    library = folder / "libcuda.so.1"
    source = ["cc", "-shared", "-fPIC", "-O1", "-w", "-Wl,-soname,libcuda.so.1", str(HERE / "libcuda.c")]
    subprocess.run([*source, "-o", str(library)], check=True)
    (folder / "libcuda.so").symlink_to(library.name)  # by which older Tritons link their launchers
    torch.cuda.is_available()  # torch looks once; later it would ask the pretended driver, and complain
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    from fastlift_kernels import dispatch

    pretended: Any = CudaDriver()
    pretended.get_device_capability = lambda device: capability
    pretended.get_current_device = lambda: 0
    pretended.get_current_stream = lambda device: 0
    driver.set_active(pretended)
    dispatch.triton_reason = lambda device: ""
    return loaded


def microseconds(runs: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Of processor time a call of each, in alternated rounds: what else the machine does is not counted."""
    for run in runs.values():
        for _ in range(20):
            run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.thread_time()
            for _ in range(CALLS):
                run()
            found[name].append(1e6 * (time.thread_time() - started) / CALLS)
    return found


def calls(impl: str) -> dict[str, Callable[[], Any]]:
    """Forward and backward of each op at a size that costs next to nothing, in bf16 but for the classifier.

    Its products in bf16 would be other ones on a CPU.
    """
    import fastlift_kernels as kernels

    dtype = torch.bfloat16
    t = torch.randn(1, 8, dtype=dtype, requires_grad=True)
    down, up = torch.randn(1, 8), torch.randn(8, 1)
    vectors = [torch.randn(8) for _ in range(5)]
    learned = [vectors[2], vectors[3], down, torch.randn(1), up, vectors[4], torch.ones(1)]
    for x in learned:
        x.requires_grad_()
    features, weight = torch.randn(2, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    labels, prior, x = (
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(3),
        torch.randn(8, dtype=dtype, requires_grad=True),
    )
    ops: dict[str, tuple[Callable[[], tuple[Any, ...]], list[Any]]] = {
        "adapter": (lambda: kernels.adapter(t, *vectors[:2], *learned, impl=impl), [t, *learned]),
        "cosine_cross_entropy": (
            lambda: kernels.cosine_cross_entropy(features, weight, labels, prior, impl=impl)[:1],
            [features, weight],
        ),
        "quick_gelu": (lambda: (kernels.quick_gelu(x, impl=impl),), [x]),
    }
    found: dict[str, Callable[[], Any]] = {}
    for name, (forward, inputs) in ops.items():
        outputs = [y for y in forward() if y.requires_grad]
        seeds = [torch.ones_like(y) for y in outputs]
        found[f"{name} forward"] = forward
        found[f"{name} backward"] = _backward(outputs, inputs, seeds)
    return found


class Nothing(torch.autograd.Function):
    """As many tensors in, out and kept as the adapter has."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        ctx.save_for_backward(*args)
        return args[0].detach(), args[0].detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.saved_tensors


def autograd_alone() -> Callable[[], Any]:
    """Backward of :class:`Nothing`."""
    inputs = [torch.randn(8, requires_grad=True) for _ in range(8)]
    outputs = list(Nothing.apply(*inputs))
    return _backward(outputs, inputs, [torch.ones_like(y) for y in outputs])


def _backward(outputs: list[Any], inputs: list[Any], seeds: list[Any]) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(outputs, inputs, seeds, retain_graph=True)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", nargs="+", choices=("triton", "native", "reference"), default=["triton", "native"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pretend_a_gpu(Path(folder))
        runs = {f"{impl} {name}": run for impl in arguments.impl for name, run in calls(impl).items()}
        runs["autograd alone"] = autograd_alone()
        found = microseconds(runs)
    medians = {name: round(statistics.median(times), 1) for name, times in found.items()}
    for name, median in medians.items():
        print(f"{name:40} {median:7.1f} us")
    if arguments.output:
        from machine import describe

        rounds = {name: [round(x, 2) for x in times] for name, times in found.items()}
        text = json.dumps({"machine": describe(), "median_us": medians, "rounds_us": rounds}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
