"""Cases of the ops and their error budget: at most twice the error that eager PyTorch makes in the same dtype."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fastlift_kernels
from fastlift_kernels.native import library

# The interpreter must be chosen before Triton is imported: test_interpreted.py runs that folder in a process of its own.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]

FLOOR = 4 * 2.0**-23  # a few float32 roundings: where eager PyTorch happens to be exact, the fused op need not be
LN2_NAMES = ("ln2_weight", "ln2_bias")
ADAPTER_NAMES = (
    *LN2_NAMES, "ln_weight", "ln_bias", "down_weight", "down_bias", "up_weight", "up_bias", "scale",
)  # fmt: skip


@dataclass
class Case:
    """Tensors of one call, float64 twins included through :meth:`exact`."""

    tensors: dict[str, torch.Tensor | None]
    options: dict[str, Any]
    gradients: list[torch.Tensor]  # of the outputs

    def leaves(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor | None]:
        out: dict[str, torch.Tensor | None] = {}
        for name, x in self.tensors.items():
            if x is None or not x.is_floating_point():
                out[name] = x
            else:
                out[name] = (x.to(dtype) if dtype else x).clone().requires_grad_(x.requires_grad)
        return out


Run = Callable[..., dict[str, torch.Tensor]]


def run_adapter(case: Case, impl: str | None, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Outputs and gradients by name."""
    leaves = case.leaves(dtype)
    ln2, residual = fastlift_kernels.adapter(**leaves, **case.options, impl=impl)  # type: ignore[arg-type]
    outputs = [x for x in (ln2, residual) if x is not None]
    pairs = [(x, g.to(x.dtype)) for x, g in zip(outputs, case.gradients, strict=True) if x.requires_grad]
    wanted = {name: x for name, x in leaves.items() if x is not None and x.requires_grad}
    grads = torch.autograd.grad([x for x, _ in pairs], list(wanted.values()), [g for _, g in pairs])
    named = {f"d_{name}": g for name, g in zip(wanted, grads, strict=True)}
    return {**({} if ln2 is None else {"ln2": ln2}), "residual": residual, **named}


def adapter_case(
    *shape: int,
    rank: int,
    dtype: torch.dtype = torch.float32,
    parameter_dtype: torch.dtype = torch.float32,
    ln2: bool = True,
    need_t: bool = True,
    outlier: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Case:
    """A call on t of ``shape`` with every parameter away from its start value."""
    draw = torch.Generator().manual_seed(seed)
    width = shape[-1]

    def normal(*size: int, by: float = 1.0, around: float = 0.0, to: torch.dtype = parameter_dtype) -> torch.Tensor:
        return (torch.randn(*size, generator=draw) * by + around).to(to)

    t = normal(*shape, by=1.5, around=0.3, to=torch.float32)
    if outlier:
        t[..., width // 3] += outlier
    sizes = {
        "ln2_weight": (width,), "ln2_bias": (width,), "ln_weight": (width,), "ln_bias": (width,),
        "down_weight": (rank, width), "down_bias": (rank,), "up_weight": (width, rank), "up_bias": (width,), "scale": (1,),
    }  # fmt: skip
    tensors: dict[str, torch.Tensor | None] = {"t": t.to(dtype).requires_grad_(need_t)}
    for name in ADAPTER_NAMES:
        around = 1.0 if name in ("ln2_weight", "ln_weight", "scale") else 0.0
        by = width**-0.5 if name == "down_weight" else rank**-0.5 if name == "up_weight" else 0.2
        tensors[name] = normal(*sizes[name], by=by, around=around).requires_grad_(not name.startswith("ln2"))
    if not ln2:
        tensors["ln2_weight"] = tensors["ln2_bias"] = None
    gradients = [normal(*shape, to=dtype) for _ in range(2 if ln2 else 1)]
    return Case(tensors, options, gradients)


def run_cosine(case: Case, impl: str | None, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Loss, predictions and gradients by name."""
    leaves = case.leaves(dtype)
    loss, predictions = fastlift_kernels.cosine_cross_entropy(**leaves, **case.options, impl=impl)  # type: ignore[arg-type]
    wanted = {name: x for name, x in leaves.items() if x is not None and x.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), case.gradients[0].to(loss.dtype))
    return {
        "loss": loss,
        "predictions": predictions,
        **{f"d_{name}": g for name, g in zip(wanted, grads, strict=True)},
    }


def cosine_case(
    batch: int,
    width: int,
    classes: int,
    *,
    dtype: torch.dtype = torch.float32,
    prior: bool = True,
    bias: bool = False,
    weighted: bool = False,
    seed: int = 0,
    **options: Any,
) -> Case:
    """A call in which every fifth label is left out."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch,), generator=draw)
    labels[1::5] = -100
    tensors: dict[str, torch.Tensor | None] = {
        "features": torch.randn(batch, width, generator=draw).to(dtype).requires_grad_(),
        "weight": torch.randn(classes, width, generator=draw).requires_grad_(),
        "labels": labels,
        "log_prior": torch.randn(classes, generator=draw) if prior else None,
        "bias": torch.randn(classes, generator=draw).requires_grad_() if bias else None,
        "class_weight": torch.rand(classes, generator=draw) + 0.1 if weighted else None,
    }
    return Case(tensors, options, [torch.tensor(1.7)])


def assert_within_budget(run: Run, case: Case, impl: str | None, factor: float = 2.0) -> None:
    """The error of ``impl`` against float64 is within ``factor`` times that of eager PyTorch, for every result."""
    exact = run(case, "reference", torch.float64)
    eager, fused = run(case, "reference"), run(case, impl)
    assert set(fused) == set(exact)
    for name, truth in exact.items():
        if name == "predictions":
            assert torch.equal(fused[name], truth)
            continue
        assert fused[name].shape == truth.shape
        assert fused[name].dtype == eager[name].dtype, name
        size, floor = truth.abs().max().clamp_min(1e-30), FLOOR
        if name == "d_scale":
            # One number, so eager's error is one draw, often a lucky one: a bound on the size here, and the ratio of the
            # two ways' errors over many draws in test_scale_gradient_over_many_draws.
            size = terms_of_d_scale(case, exact).norm()
            floor = max(4 * FLOOR, torch.finfo(case.gradients[0].dtype).eps)
        error = ((fused[name].double() - truth).abs().max() / size).item()
        allowed = ((eager[name].double() - truth).abs().max() / size).item() * factor + floor
        assert error <= allowed, f"{name}: error {error:.2e} against {allowed:.2e} allowed"


def terms_of_d_scale(case: Case, exact: dict[str, torch.Tensor]) -> torch.Tensor:
    """What d_scale is the sum of; the terms cancel, so its error is measured against their root sum of squares."""
    t, scale = case.tensors["t"], case.tensors["scale"]
    assert t is not None
    assert scale is not None
    return ((exact["residual"] - t.double()) / scale.double() * case.gradients[-1].double()).detach()


@pytest.fixture(scope="session")
def kernels() -> Any:
    """The makers and runners of cases, as attributes."""

    class Kernels:
        adapter_case = staticmethod(adapter_case)
        cosine_case = staticmethod(cosine_case)
        run_adapter = staticmethod(run_adapter)
        terms_of_d_scale = staticmethod(terms_of_d_scale)
        run_cosine = staticmethod(run_cosine)
        assert_within_budget = staticmethod(assert_within_budget)

    return Kernels


@pytest.fixture
def native() -> Iterator[Any]:
    """The loaded native library, its scratch memory full of NaN; skipped where it was not built."""
    if library.LOADED is None:
        pytest.skip(f"no native library: {library.MISSING}")
    library.LOADED.fastlift_poison_scratch(1)
    yield library.LOADED
    library.LOADED.fastlift_poison_scratch(0)


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, native: Any) -> Iterator[str]:
    """Each instruction set in turn; skipped where this processor lacks it."""
    before = library.isa()
    if native.fastlift_select_isa(request.param.encode()) != 0:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native.fastlift_select_isa(before.encode())
