"""For test_launch.py, in a process of its own: real launches of real compiled code, to a CUDA driver that does nothing.

python launched.py FOLDER     prints what was compiled, and whether the short way passes what Triton's own passes
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "ops"), str(ROOT / "tests" / "kernels"), str(ROOT / "tests")]

from attention_cases import attention_case  # noqa: E402
from host import pretend_a_gpu  # noqa: E402
from kernel_cases import activation_case, adapter_case, cosine_case, mlp_case  # noqa: E402


def compiled() -> dict[str, int]:
    """How often each kernel was compiled."""
    from fastlift_kernels.activation import gpu as activation
    from fastlift_kernels.adapter import folded, fused_backward, fused_forward, parameters_backward, wide
    from fastlift_kernels.attention import backward, backward_whole, forward
    from fastlift_kernels.cosine_ce import rows
    from fastlift_kernels.mlp import gpu as mlp

    found = {}
    adapter = (folded, fused_forward, fused_backward, parameters_backward, wide)
    for module in (forward, backward, backward_whole, activation, *adapter, rows, mlp):
        for name, kernel in vars(module).items():
            if name.endswith("_kernel") and hasattr(kernel, "device_caches"):
                found[name] = sum(len(caches[0]) for caches in kernel.device_caches.values())
    return found


def sizes() -> dict[str, int]:
    """Compilations after batches of many sizes, by Triton's own binder."""
    from fastlift_kernels import triton_launch

    for tokens in (1, 6, 16, 17, 48, 197, 1182):
        for rank in (8, 160):
            triton_launch.compiled_before.clear()
            adapter_case(tokens, 64, rank=rank, dtype=torch.bfloat16).run("triton")
        triton_launch.compiled_before.clear()
        cosine_case(tokens, 64, 40).run("triton")
        activation_case("gelu", 64 * tokens).run("triton")
        mlp_case(tokens, 64, hidden=96, dtype=torch.bfloat16).run("triton")
    for images, tokens in ((1, 193), (2, 197), (16, 208)):  # attention's keys are compiled for
        for dtype in (torch.bfloat16, torch.float32):
            triton_launch.compiled_before.clear()
            attention_case(images, tokens, 2, 32, dtype=dtype).run("triton")
    return compiled()


def parameters(library: ctypes.CDLL) -> list[str]:
    """Launches whose parameters differ between the first call, by the binder, and the second, past it."""
    from fastlift_kernels import triton_launch

    wanted = ctypes.c_int.in_dll(library, "pretended_wanted")
    seen = (ctypes.c_uint * 64).in_dll(library, "pretended_parameters")
    launch, different = triton_launch.launch, []

    def twice(kernel: Any, grid: Any, key: Any, arguments: Any, **constants: Any) -> None:
        wanted.value = sum(_is_passed(x) for x in arguments)
        triton_launch.compiled_before.clear()
        launch(kernel, grid, key, arguments, **constants)
        first = list(seen)
        assert key is not None
        assert len(triton_launch.compiled_before) == 1
        ctypes.memset(seen, 0xA5, ctypes.sizeof(seen))
        launch(kernel, grid, key, arguments, **constants)
        if list(seen)[: wanted.value] != first[: wanted.value] or wanted.value < 3:
            different.append(kernel.fn.__name__)

    from fastlift_kernels.activation import gpu as activation
    from fastlift_kernels.adapter import folded, fused_backward, fused_forward, parameters_backward, wide
    from fastlift_kernels.attention import gpu as attention
    from fastlift_kernels.cosine_ce import gpu as classifier
    from fastlift_kernels.mlp import gpu as mlp

    adapter = (folded, fused_forward, fused_backward, parameters_backward, wide)
    for module in (attention, activation, *adapter, classifier, mlp):
        module.launch = twice  # type: ignore[attr-defined]
    for ln2 in (True, False):
        for rank in (8, 160):
            adapter_case(70, 64, rank=rank, ln2=ln2).run("triton")
    cosine_case(20, 64, 40, weighted=True, bias=True, label_smoothing=0.1).run("triton")
    activation_case("quick_gelu", 999).run("triton")
    for options in ({}, {"scaled": True, "biases": False, "kind": "gelu"}, {"need_x": False}):
        mlp_case(21, 64, hidden=96, dtype=torch.bfloat16, **options).run("triton")  # type: ignore[arg-type]
    attention_case(2, 21, 2, 32, dtype=torch.bfloat16).run("triton")
    attention_case(1, 21, 2, 32, queries=3, patches=20, first=1, causal=True).run("triton")
    return different


def logits_alive() -> float:
    """Peak memory of the classifier's both ways, as a share of what the logits of the batch would take in float32."""
    from compare import peak_extra_mib

    batch, classes = 2048, 8142
    case = cosine_case(batch, 16, classes, dtype=torch.bfloat16)

    class Workload:
        def runner(self, way: str, direction: str) -> Any:
            return lambda: case.run("triton")

    return peak_extra_mib(Workload(), "fused") / (batch * classes * 4 / 2**20)  # type: ignore[arg-type]


def _is_passed(x: Any) -> bool:
    """None and 1 become part of the code."""
    return x is not None and not (isinstance(x, int) and x == 1)


if __name__ == "__main__":
    loaded = pretend_a_gpu(Path(sys.argv[1]))
    print(json.dumps({"compiled": sizes(), "logits_alive": logits_alive(), "different": parameters(loaded)}))
