"""Where the ops are plain PyTorch: inside ``plain()``, and while a program is written down for somewhere else."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import adapter_case, cosine_case
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastlift_kernels


class Seen(TorchDispatchMode):
    """The names of the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(function))
        return function(*args, **kwargs or {})

    @property
    def own(self) -> set[str]:
        return {name for name in self.names if name.startswith("fastlift_kernels")}


def calls(impl: Any) -> dict[str, Callable[[], Any]]:
    """A call of each op that has kernels for this CPU."""
    leaves = adapter_case(2, 5, 64, rank=4).leaves()
    cosine = cosine_case(8, 64, 11).leaves()
    features = [cosine[name] for name in ("features", "weight", "labels", "log_prior")]
    x = torch.randn(3, 8)
    return {
        "adapter": lambda: fastlift_kernels.adapter(**leaves, impl=impl),
        "cosine": lambda: fastlift_kernels.cosine_cross_entropy(*features, impl=impl),
        "quick_gelu": lambda: fastlift_kernels.quick_gelu(x, impl=impl),
        "gelu": lambda: fastlift_kernels.gelu(x, impl=impl),
    }


@pytest.mark.parametrize("impl", [None, "native"])
@pytest.mark.parametrize("name", ["adapter", "cosine", "quick_gelu", "gelu"])
def test_ops_are_plain_inside_the_context(native: Any, name: str, impl: Any) -> None:
    call = calls(impl)[name]
    with Seen() as outside:
        wanted = call()
    assert outside.own, "the op under test runs no kernel here, so this test would show nothing"
    with fastlift_kernels.plain(), fastlift_kernels.plain(), Seen() as inside:
        found = call()
    assert not inside.own
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with Seen() as after:
        call()
    assert after.own


def test_it_ends_with_an_error_too_and_holds_for_all_threads(native: Any) -> None:
    x, own = torch.randn(3, 8), []

    def look() -> None:
        with Seen() as seen:
            fastlift_kernels.gelu(x)
        own.append(bool(seen.own))

    def fail() -> None:
        with fastlift_kernels.plain():
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    look()
    assert own == [False, True]


def test_what_was_recorded_before_goes_back_inside(native: Any) -> None:
    leaves = adapter_case(2, 5, 64, rank=4).leaves()

    def loss(impl: Any) -> Tensor:
        ln2, residual = fastlift_kernels.adapter(**leaves, impl=impl)
        return ln2.sum() + residual.square().sum()

    recorded = loss("native")
    with fastlift_kernels.plain():
        got = torch.autograd.grad(recorded, leaves["up_weight"])
    wanted = torch.autograd.grad(loss("reference"), leaves["up_weight"])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


class Activation(nn.Module):
    """An op that chooses for itself, or is named."""

    def __init__(self, impl: Any) -> None:
        super().__init__()
        self.impl = impl

    def forward(self, x: Tensor) -> Tensor:
        return fastlift_kernels.quick_gelu(x, impl=self.impl)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_has_none_of_them_unless_one_is_named(native: Any, strict: bool) -> None:
    def own(impl: Any) -> set[str]:
        program = torch.export.export(Activation(impl), (torch.randn(3, 8),), strict=strict)
        return {str(node.target) for node in program.graph.nodes if str(node.target).startswith("fastlift_kernels")}

    assert not own(None)
    assert own("native")


def test_neither_has_a_trace_but_a_compiled_graph_has(native: Any) -> None:
    x, graphs = torch.randn(3, 8), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is deprecated
        traced = torch.jit.trace(Activation(None), x)
    assert "fastlift_kernels::" not in str(traced.graph)

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(str(graph.graph))
        return graph

    torch._dynamo.reset()
    torch.compile(Activation(None), backend=keep, fullgraph=True)(x)
    assert "activation_forward" in graphs[0]
