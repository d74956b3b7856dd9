"""All ops as PyTorch sees them: opcheck, torch.compile, FLOPs, transforms, and no import of what is not needed."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernel_cases import adapter_case, cosine_case
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import fastlift_kernels
from fastlift_kernels import dispatch
from fastlift_kernels.native import library

OPS = torch.ops.fastlift_kernels
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def adapter_arguments(case: Any) -> tuple[Any, ...]:
    leaves = case.leaves()
    return (*leaves.values(), 1.0, 1e-5, 1e-5, leaves["t"].dtype, True, "native")


def test_opcheck_adapter(native: Any) -> None:
    case = adapter_case(2, 5, 64, rank=4)
    torch.library.opcheck(OPS.adapter_forward.default, adapter_arguments(case), test_utils=CHECKS)
    case = adapter_case(7, 64, rank=4, ln2=False, need_t=False, dtype=torch.bfloat16)
    torch.library.opcheck(OPS.adapter_forward.default, adapter_arguments(case), test_utils=CHECKS)


def test_opcheck_adapter_backward(native: Any) -> None:
    tensors = adapter_case(7, 64, rank=4).constants()
    arguments, t = (*tensors.values(), 1.0, 1e-5, 1e-5), tensors["t"]
    _, _, *kept = OPS.adapter_forward(*arguments, torch.float32, True, "native")
    arguments = (t, t, *kept, *arguments, True, "native")
    torch.library.opcheck(OPS.adapter_backward.default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_cosine_cross_entropy(native: Any, bias: bool) -> None:
    leaves = cosine_case(8, 64, 11, bias=bias).leaves()
    inputs = [leaves[n] for n in ("features", "weight", "labels", "log_prior", "bias", "class_weight")]
    arguments = (*inputs, 25.0, 1.0, 0.1, "both", True, True, bias, "native")
    torch.library.opcheck(OPS.cosine_cross_entropy_forward.default, arguments, test_utils=CHECKS)


@pytest.mark.parametrize("kind", ["quick_gelu", "gelu"])
def test_opcheck_activation(native: Any, kind: str) -> None:
    x = torch.randn(3, 7, requires_grad=True)
    torch.library.opcheck(OPS.activation_forward.default, (x, kind, "native"), test_utils=CHECKS)


def test_compile_without_graph_breaks(native: Any) -> None:
    def step(case: Any, labels: torch.Tensor, weight: torch.Tensor, leaves: dict[str, Any]) -> torch.Tensor:
        ln2, residual = fastlift_kernels.adapter(**leaves)
        features = (residual + fastlift_kernels.quick_gelu(ln2) + fastlift_kernels.gelu(ln2)).mean(1)
        loss, predictions = fastlift_kernels.cosine_cross_entropy(features, weight, labels)
        return loss + 0.0 * predictions.sum()

    case = adapter_case(6, 5, 64, rank=4)
    weight, labels = torch.randn(9, 64, requires_grad=True), torch.randint(0, 9, (6,))
    results = []
    for run in (step, torch.compile(step, fullgraph=True)):
        leaves = case.leaves()
        loss = run(case, labels, weight, leaves)
        wanted = [leaves["t"], leaves["up_weight"], leaves["scale"], weight]
        results.append((loss, *torch.autograd.grad(loss, wanted)))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_flops_are_counted(native: Any) -> None:
    tokens, width, rank = 10, 64, 4
    product = 2 * tokens * width * rank
    for need_t, products in ((True, 2 + 4), (False, 2 + 3)):
        leaves = adapter_case(tokens, width, rank=rank, need_t=need_t).leaves()
        with FlopCounterMode(display=False) as counter:
            fastlift_kernels.adapter(**leaves, impl="native")[1].sum().backward()
        assert counter.get_total_flops() == products * product
    leaves = cosine_case(5, 8, 11).leaves()
    with FlopCounterMode(display=False) as counter:
        fastlift_kernels.cosine_cross_entropy(**leaves, impl="native")[0].backward()
    assert counter.get_total_flops() == 3 * 2 * 5 * 8 * 11


def test_func_transforms_are_refused(native: Any) -> None:
    x = torch.randn(4, 8)
    leaves = adapter_case(3, 64, rank=4).constants()
    calls = [
        lambda: torch.func.grad(lambda v: fastlift_kernels.quick_gelu(v).sum())(x),
        lambda: torch.func.vmap(fastlift_kernels.gelu)(x),
        lambda: torch.func.jvp(fastlift_kernels.gelu, (x,), (x,)),
        lambda: torch.func.grad(lambda t: fastlift_kernels.adapter(**{**leaves, "t": t})[1].sum())(leaves["t"]),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r'not inside torch.func transforms .* impl="reference"'):
            call()
    exact = torch.func.grad(lambda v: fastlift_kernels.quick_gelu(v, impl="reference").sum())(x)
    assert exact.shape == x.shape


def test_gradients_of_gradients_are_refused(native: Any) -> None:
    """Not left out in silence: the fused backward has no backward of its own."""
    x = torch.randn(4, 8, requires_grad=True)
    leaves = adapter_case(3, 64, rank=4).leaves()
    losses = [
        (fastlift_kernels.gelu(x, impl="native").square().sum(), x),
        (fastlift_kernels.adapter(**leaves, impl="native")[1].square().sum(), leaves["t"]),
        (fastlift_kernels.cosine_cross_entropy(x, torch.randn(3, 8), torch.zeros(4).long(), impl="native")[0], x),
    ]
    for loss, of in losses:
        with pytest.raises(RuntimeError, match=r'no second derivative .* impl="reference"'):
            torch.autograd.grad(loss, of, create_graph=True)


def test_imports_neither_fastlift_nor_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; sys.modules['fastlift'] = None\n"
        "import torch, fastlift_kernels as k\n"
        "x = torch.randn(3, 8); k.quick_gelu(x); report = k.available()\n"
        "assert not any(n.startswith('fastlift_kernels') and n.endswith('.gpu') for n in sys.modules)\n"
        "assert report['reference'] and not report['triton'] and report['triton_reason']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_library_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LOADED", None)
    monkeypatch.setattr(library, "MISSING", "no compiler was found")
    x = torch.randn(5, requires_grad=True)
    assert torch.equal(fastlift_kernels.quick_gelu(x), fastlift_kernels.quick_gelu(x, impl="reference"))
    with pytest.raises(RuntimeError, match=r'impl="native" is not available: no compiler was found'):
        fastlift_kernels.quick_gelu(x, impl="native")
    report = fastlift_kernels.available()
    assert (report["native"], report["native_reason"]) == (False, "no compiler was found")
    assert "slower" in report["cost_without_native"]


def test_available_tells_the_instruction_set(isa: str) -> None:
    report = fastlift_kernels.available()
    assert report["native"]
    assert report["native_isa"] == isa
    assert report["native_path"].endswith("_native.so")


def test_unknown_instruction_set_is_refused(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = library.isa()
    monkeypatch.setenv("FASTLIFT_ISA", "vax")
    assert library.load() == (None, "FASTLIFT_ISA=vax: this processor or this build does not have it")
    assert library.isa() == before


def test_dtypes_without_a_fused_path() -> None:
    x = torch.randn(4, dtype=torch.float64)
    assert torch.equal(fastlift_kernels.gelu(x), fastlift_kernels.gelu(x, impl="reference"))
    if library.LOADED is not None:
        with pytest.raises(TypeError, match=r'x: impl="native" knows torch.float32, torch.bfloat16, got torch.float64'):
            fastlift_kernels.gelu(x, impl="native")


def test_a_triton_that_starts_nothing_is_said_once_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU whose machine has no C compiler: a sentence, and plain PyTorch, in place of a traceback in the first step."""
    pytest.importorskip("triton")

    tried = []

    class Broken:
        @property
        def active(self) -> Any:
            tried.append(1)
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    with FakeTensorMode():
        x = torch.empty(4, 8, device="cuda")  # before a GPU is pretended, which torch would start
    monkeypatch.setattr("triton.runtime.driver", Broken())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    said = r"Triton starts no kernels here \(RuntimeError: Failed to find C compiler.*\); it needs a C compiler and Python.h"
    with pytest.warns(RuntimeWarning, match=said) as warned:
        assert [dispatch.choose(None, "x", x) for _ in range(3)] == ["reference"] * 3
    assert len(warned) == 1
    with pytest.raises(RuntimeError, match=f'impl="triton" is not available: {said}'):
        dispatch.choose("triton", "x", x)
    assert len(tried) == 1
    monkeypatch.setattr("triton.runtime.driver", SimpleNamespace(active=SimpleNamespace(utils="a launcher")))
    dispatch.triton_fault.cache_clear()
    assert dispatch.choose(None, "x", x) == "triton"
