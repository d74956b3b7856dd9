"""The MLP by PyTorch's products, in its own memory and in the residual's; and what a call refuses."""

from typing import Any

import pytest
import torch
from error_bounds import assert_within_bounds
from kernel_cases import MlpCase, mlp_case
from torch._subclasses.fake_tensor import FakeTensorMode

import fastlift_kernels


class InPlace(MlpCase):
    """The same with the result in the residual's memory, which autograd's leaves do not give away."""

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Any:
        if impl == "reference":
            return super().run(impl, dtype)
        leaves = self.leaves(dtype)
        residual = leaves["residual"].clone()  # type: ignore[union-attr]
        y = fastlift_kernels.mlp(**leaves | {"residual": residual}, **self.options, overwrite=True)  # type: ignore[arg-type]
        assert y.data_ptr() == residual.data_ptr()
        wanted = [x for x in (leaves["x"], leaves["residual"]) if x is not None and x.requires_grad]
        names = [name for name in ("x", "residual") if leaves[name].requires_grad]  # type: ignore[union-attr]
        gradients = torch.autograd.grad(y, wanted, self.gradients[0].to(y.dtype))
        return {"y": y.detach(), **{f"d_{name}": g for name, g in zip(names, gradients, strict=True)}}


def in_place(case: MlpCase) -> InPlace:
    return InPlace(case.tensors, case.options, case.gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("options", [{}, {"biases": False}, {"scaled": True}, {"need_x": False}], ids=str)
def test_all_results_are_within_their_bounds(dtype: torch.dtype, kind: str, options: dict[str, Any]) -> None:
    case = mlp_case(3, 13, 48, hidden=80, dtype=dtype, kind=kind, **options)
    assert_within_bounds(case, None)  # type: ignore[arg-type]
    if not options.get("scaled"):
        assert_within_bounds(in_place(case), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("overwrite", [False, True])
def test_keeps_the_pre_activation_alone(native: Any, overwrite: bool) -> None:
    """Beside the frozen weights, which are there in any case; in the residual's memory as well as in its own."""
    saved: list[torch.Tensor] = []
    leaves: dict[str, Any] = mlp_case(5, 24, hidden=40).leaves()
    weights = {leaves[name].data_ptr() for name in ("in_weight", "out_weight")}
    leaves["residual"] = leaves["residual"] * 1.0
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        fastlift_kernels.mlp(**leaves, kind="gelu", overwrite=overwrite)
    assert [x.numel() for x in saved if x.data_ptr() not in weights] == [5 * 40]


def test_a_residual_that_others_read_is_left_alone() -> None:
    leaves: dict[str, Any] = mlp_case(5, 24, hidden=40).constants()
    before = leaves["residual"].clone()
    fastlift_kernels.mlp(**leaves, kind="gelu")
    assert torch.equal(leaves["residual"], before)


def test_overwriting_is_left_out_where_it_cannot_be() -> None:
    """A scale, a residual with gaps, products in autocast's dtype, a tracer: the result is the same."""
    leaves: dict[str, Any] = mlp_case(6, 24, hidden=40).constants()
    expected = fastlift_kernels.mlp(**leaves, kind="gelu")
    gaps = torch.stack([leaves["residual"], leaves["residual"]], dim=-1)[..., 0]
    torch.testing.assert_close(
        fastlift_kernels.mlp(**leaves | {"residual": gaps}, kind="gelu", overwrite=True), expected
    )
    with torch.autocast("cpu", torch.bfloat16):
        cast = fastlift_kernels.mlp(**leaves | {"residual": leaves["residual"].clone()}, kind="gelu", overwrite=True)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, expected, rtol=0.05, atol=0.05)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert fastlift_kernels.mlp(**leaves, kind="gelu", overwrite=True).shape == expected.shape


def test_compiled_in_one_graph_of_flat_products() -> None:
    """Inductor puts into a product's epilogue what has its shape: everything between the products is [N, M] or [N, D]."""
    shapes: list[tuple[int, ...]] = []

    def backend(module: torch.fx.GraphModule, _inputs: Any) -> Any:
        for node in module.graph.nodes:
            if node.op == "call_function" and node.target.__name__ in ("mul", "sigmoid", "add"):
                shapes.append(tuple(node.meta["example_value"].shape))
        return module.forward

    with FakeTensorMode():
        case = mlp_case(2, 7, 24, hidden=40, dtype=torch.bfloat16)
        leaves = {name: torch.empty_like(x, device="cuda") for name, x in case.tensors.items() if x is not None}
        torch._dynamo.reset()
        compiled = torch.compile(fastlift_kernels.mlp, backend=backend, fullgraph=True)
        assert compiled(**leaves, kind="quick_gelu", overwrite=True).shape == (2, 7, 24)
    assert shapes
    assert set(shapes) == {(14, 40), (14, 24)}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": 3.0}, "x: expected a tensor"),
    ({"x": torch.tensor(1.0)}, r"x: expected \[.., D\]"),
    ({"in_weight": torch.randn(40, 25)}, r"in_weight: expected shape \[40, 24\], got \[40, 25\]"),
    ({"in_weight": torch.randn(40)}, r"in_weight: expected \[M, 24\], got \[40\]"),
    ({"in_weight": torch.randn(40, 24).bfloat16()}, "in_weight: expected torch.float32, got torch.bfloat16"),
    ({"out_weight": torch.randn(40, 24)}, r"out_weight: expected shape \[24, 40\]"),
    ({"out_weight": None}, "out_weight: expected a tensor"),
    ({"in_bias": torch.randn(24)}, r"in_bias: expected shape \[40\]"),
    ({"out_bias": torch.randn(24).double()}, "out_bias: expected float32"),
    ({"scale": torch.randn(1)}, r"scale: expected shape \[24\]"),
    ({"residual": torch.randn(4, 24)}, r"residual: expected shape \[5, 24\]"),
    ({"residual": torch.randn(5, 24).bfloat16()}, "residual: expected torch.float32"),
    ({"kind": "relu"}, "kind: expected one of quick_gelu, gelu, got 'relu'"),
    ({"in_bias": torch.randn(40, requires_grad=True)}, "in_bias: expected a frozen tensor"),
    ({"out_weight": torch.randn(24, 40, requires_grad=True)}, "out_weight: expected a frozen tensor"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
@pytest.mark.parametrize("impl", [None, "reference"])
def test_what_does_not_fit_raises(change: dict[str, Any], message: str, impl: Any) -> None:
    arguments: dict[str, Any] = {**mlp_case(5, 24, hidden=40).constants(), "kind": "gelu"}
    fastlift_kernels.mlp(**arguments, impl=impl)
    with pytest.raises((TypeError, ValueError), match=message):
        fastlift_kernels.mlp(**arguments | change, impl=impl)


def test_what_does_not_fit_the_registered_ops_raises() -> None:
    forward, backward = torch.ops.fastlift_kernels.mlp_forward, torch.ops.fastlift_kernels.mlp_backward
    leaves = list(mlp_case(5, 24, hidden=40).constants().values())
    with pytest.raises((RuntimeError, TypeError), match=r"not available|bfloat16 and float16"):
        forward(*leaves, "gelu", True, "native")
    x, in_weight, _, out_weight, *_ = leaves
    with pytest.raises(ValueError, match="kind: expected one of"):
        backward(x, torch.randn(5, 40), in_weight, out_weight, None, "relu", "triton")
