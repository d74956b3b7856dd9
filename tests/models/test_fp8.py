"""Frozen products in fp8, forward and backward: how far the rounding goes, what is left alone. On a CPU torch emulates them."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils._python_dispatch import TorchDispatchMode

import fastlift
import fastlift_kernels as kernels
from fastlift.models.create import create_model
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fp8_products import Fp8Linear, Fp8MLP, Fp8QKV
from fastlift.models.layers import LayerNorm, Linear
from fastlift.models.vit import QKV


def emulated() -> bool:
    try:
        create = torch.zeros(16, 16).to(torch.float8_e4m3fn)
        ones = torch.ones(16, 1)
        torch._scaled_mm(create, create.t(), ones, ones.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError):
        return False
    return True


needs_product = pytest.mark.skipif(not emulated(), reason="this torch has no scaled product on CPUs")


@pytest.fixture
def place(device: torch.device) -> torch.device:
    """A device that multiplies in fp8, or emulates it."""
    if device.type == "cpu" and not emulated():
        pytest.skip("this torch has no scaled product on CPUs")
    if device.type != "cpu" and torch.cuda.get_device_capability(device) < (8, 9):
        pytest.skip("this GPU has no 8-bit floats")
    return device


def test_rows_keep_three_bits_and_their_own_scale() -> None:
    x = torch.randn(50, 64) * torch.logspace(-6, 6, 50)[:, None]
    rounded, scale = kernels.quantise_rows(x)
    largest = x.abs().amax(dim=1, keepdim=True)
    error = (rounded.float() * scale - x).abs()
    assert (error <= torch.maximum(x.abs() / 16, largest * 2.0**-18)).all()  # half a unit of 2^-3; below, subnormals
    assert rounded.float().abs().amax(dim=1).eq(448).all()


def test_rows_of_zeros_stay() -> None:
    rounded, scale = kernels.quantise_rows(torch.zeros(2, 16))
    assert torch.equal(rounded.float() * scale, torch.zeros(2, 16))


def uneven(linear: Linear) -> Linear:
    """Frozen, with channels of very different sizes on both sides: a scale in the wrong place shows."""
    out, inputs = linear.weight.shape
    with torch.no_grad():
        linear.weight *= torch.logspace(-1, 1, out)[:, None] * torch.logspace(1, -1, inputs)
        torch.nn.init.normal_(linear.bias)
    return linear.requires_grad_(False).to(torch.bfloat16)


def assert_rounds(got: torch.Tensor, of: torch.Tensor, by: torch.Tensor, bias: torch.Tensor | float = 0.0) -> None:
    """``got`` is the product of both as quantised, summed in float32 in some order and rounded to bf16 once."""
    one, other = (rounded.double() * scale for rounded, scale in map(kernels.quantise_rows, (of, by)))
    exact, terms = one @ other.T + bias, one.abs() @ other.abs().T + torch.as_tensor(bias).abs()
    assert ((got.double() - exact).abs() <= exact.abs() / 2**8 + terms * (len(by.T) + 4) / 2**24).all()


def worst(of: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """How far rounding both to 8 bits can move their product: a sixteenth of a number, or half a subnormal step."""
    of, by = of.double(), by.double()
    e, f = (torch.maximum(x.abs() / 16, x.abs().amax(1, keepdim=True) / 448 / 2**10) for x in (of, by))
    return e @ by.abs().T + of.abs() @ f.T + e @ f.T


@needs_product
def test_product_and_its_gradient() -> None:
    linear = uneven(Linear(64, 48))
    fp8 = Fp8Linear(linear)
    x = (torch.randn(3, 7, 64) * torch.logspace(-3, 3, 7)[:, None]).to(torch.bfloat16).requires_grad_()
    y = fp8(x)
    assert y.shape == (3, 7, 48)
    gradient = torch.randn_like(y) * torch.logspace(3, -3, 7, dtype=torch.bfloat16)[:, None]
    (d_x,) = torch.autograd.grad(y, x, gradient)
    assert y.dtype == d_x.dtype == torch.bfloat16
    rows, d_rows, weight = x.detach().flatten(0, 1), gradient.flatten(0, 1), linear.weight
    bias = linear.bias.double()
    assert_rounds(y.flatten(0, 1), rows, weight, bias)
    assert_rounds(d_x.flatten(0, 1), d_rows, weight.t())
    for got, exact, bound in (
        (y, rows.double() @ weight.double().T + bias, worst(rows, weight)),
        (d_x, d_rows.double() @ weight.double(), worst(d_rows, weight.t())),
    ):
        assert ((got.flatten(0, 1).double() - exact).abs() <= bound + (exact.abs() + bound) / 2**7).all()


def close(got: torch.Tensor, exact: torch.Tensor, share: float) -> bool:
    """Each channel by itself: the large ones must not cover for the small ones."""
    error, size = ((x.float().flatten(0, -2)).norm(dim=0) for x in (got.float() - exact.float(), exact))
    return bool((error <= share * size).all())


@pytest.mark.parametrize("kind", ["quick_gelu", "gelu"])
def test_mlp_and_its_gradient(place: torch.device, kind: str) -> None:
    first, second = Linear(64, 192).requires_grad_(False).to(place, torch.bfloat16), uneven(Linear(192, 64)).to(place)
    x = torch.randn(5, 50, 64, dtype=torch.bfloat16, device=place, requires_grad=True)
    wide = x.detach().float().requires_grad_()
    activation = getattr(kernels, kind)
    exact = F.linear(
        activation(F.linear(wide, first.weight.float(), first.bias.float())), second.weight.float(), second.bias.float()
    )
    y = Fp8MLP(first, kind, second)(x)  # type: ignore[arg-type]
    assert close(y, exact, 0.2)
    gradient = torch.randn_like(y)
    (d_x,), (d_exact,) = torch.autograd.grad(y, x, gradient), torch.autograd.grad(exact, wide, gradient.float())
    assert close(d_x, d_exact, 0.2)


@pytest.mark.parametrize("queries", [None, 1])
@pytest.mark.parametrize("normed", [True, False])
def test_qkv_and_its_gradient(place: torch.device, queries: int | None, normed: bool) -> None:
    """Also where only the first token asks."""
    norm, qkv = LayerNorm(64), QKV(64, 192)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    torch.nn.init.normal_(norm.bias)
    norm, qkv = norm.requires_grad_(False).to(place, torch.bfloat16), uneven(qkv).to(place)
    x = (3.0 * normed + torch.randn(20, 7, 64)).to(place, torch.bfloat16).requires_grad_()
    wide = x.detach().float().requires_grad_()
    fp8 = Fp8QKV(qkv, norm if normed else None)
    results = fp8(x, queries)
    exact = copy.deepcopy(qkv).float()(copy.deepcopy(norm).float()(wide) if normed else wide, queries)
    found = [(y, e) for y, e in zip(results, exact, strict=True) if e is not None]
    assert len(found) == (1 if queries is None else 2)
    assert all(y.shape == e.shape and close(y, e, 0.2) for y, e in found)
    gradients = [torch.randn_like(y) for y, _ in found]
    (d_x,) = torch.autograd.grad([y for y, _ in found], x, gradients)
    (d_exact,) = torch.autograd.grad([e for _, e in found], wide, [g.float() for g in gradients])
    assert close(d_x, d_exact, 0.2)


@needs_product
def test_a_model_keeps_what_trains_and_nearly_its_logits() -> None:
    names = ["red star", "blue disc", "green ring"]
    model = create_model("shapes-clip", class_names=names)
    with torch.no_grad():
        for name, parameter in model.tuner_parameters.items():
            if "up_proj" in name:
                parameter.normal_(std=0.02)
    model.set_compute_dtype(torch.bfloat16)
    images = torch.randn(4, 3, 48, 48, dtype=torch.bfloat16)
    before, trained = model(images).detach(), model.trained()
    assert Fp8Settings("fp8").build(model.vit) == 4 * model.vit.depth
    assert isinstance(model.vit.block(0).qkv, Fp8QKV)
    assert list(model.trained()) == list(trained)
    logits = model(images)
    assert (logits - before).norm() < 0.15 * before.norm()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.trained().values())
    assert torch.isfinite(torch.cat([p.grad.flatten() for p in model.trained().values()])).all()


def test_what_trains_stays() -> None:
    model = create_model("shapes-clip", class_names=["a", "b"], tuner="full")
    with pytest.raises(fastlift.UserError, match="no frozen product"):
        Fp8Settings("fp8").build(model.vit)


@needs_product
def test_one_product_forward_with_its_bias_and_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in fp8, no pass of its own for the bias, and no weight made anew in every step."""
    product, calls = torch._scaled_mm, []
    monkeypatch.setattr(
        torch, "_scaled_mm", lambda *args, **options: calls.append(options) or product(*args, **options)
    )
    fp8 = Fp8Linear(uneven(Linear(64, 48)))
    x = torch.randn(5, 64, dtype=torch.bfloat16, requires_grad=True)
    with Ops() as forward:
        y = fp8(x)
    with Ops() as backward:
        y.sum().backward()
    assert [c.get("bias") is not None and torch.equal(c["bias"], fp8.bias) for c in calls] == [True, False]
    assert not {"add", "add_", "mm"} & {*forward.names, *backward.names}
    assert not {"clone", "contiguous"} & {*forward.names}


@needs_product
@pytest.mark.parametrize("outputs", [48, 768, 960])
def test_scales_are_there_as_far_as_the_product_reads(outputs: int) -> None:
    """Up to 256 of them together (pytorch#133334), after a move to another device too."""
    fp8 = Fp8QKV(QKV(outputs // 3, outputs).requires_grad_(False)).to("meta")
    for part in (fp8.part(), fp8.part(slice(outputs // 3, None)), fp8.part(slice(outputs // 3))):
        for scale in (part.scale, part.transposed_scale):
            last = scale.storage_offset() + -(-len(scale) // 256) * 256
            assert scale.untyped_storage().nbytes() >= 4 * last
    _, scale = kernels.quantise_rows(torch.randn(197, 64))
    assert scale.shape == (197, 1)
    assert scale.untyped_storage().nbytes() >= 4 * 256
    assert torch.equal(scale.as_strided((59, 1), (1, 1), 197), torch.ones(59, 1))


class Ops(TorchDispatchMode):
    """Names of what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("capability", "torch_version", "dtype", "message"),
    [
        ((9, 0), "2.11.0+cu130", torch.bfloat16, ""),
        ((8, 9), "2.12.0+cu130", torch.bfloat16, ""),
        ((8, 9), "2.11.0+cu130", torch.bfloat16, "may hang in its scaled product; torch 2.12 or newer does not"),
        ((8, 6), "2.12.0", torch.bfloat16, "capability 8.6. has no fp8 units; 8.9 or more has"),
        ((9, 0), "2.12.0", torch.float16, "use --amp bf16"),
    ],
)
def test_which_gpus_may(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], torch_version: str, dtype: torch.dtype, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "__version__", torch_version)
    if not message:
        Fp8Settings("fp8").check(torch.device("cuda"), dtype)
        return
    with pytest.raises(fastlift.UserError, match=message):
        Fp8Settings("fp8").check(torch.device("cuda"), dtype)


@needs_product
def test_lora_beside_products_in_fp8() -> None:
    model = create_model("shapes-clip", class_names=["a", "b"], tuner="lora")
    model.set_compute_dtype(torch.bfloat16)
    images = torch.randn(2, 3, 48, 48, dtype=torch.bfloat16)
    before = model(images).detach()
    assert Fp8Settings("fp8").build(model.vit) == 4 * model.vit.depth
    logits = model(images)
    assert (logits - before).norm() < 0.15 * before.norm()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.trained().values())


def test_refused_on_a_cpu_before_anything_is_loaded() -> None:
    with pytest.raises(fastlift.UserError, match="needs a GPU with fp8 units"):
        Fp8Settings("fp8").check(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(fastlift.UserError, match="needs a GPU with fp8 units"):
        fastlift.train(fastlift.recipes.lift("shapes_lt", frozen="fp8", device="cpu"))


@needs_product
def test_a_tower_compiles_into_one_graph() -> None:
    """With the quantisations in the open, where inductor fuses them with what is beside them."""
    model = create_model("shapes-clip", class_names=["a", "b"])
    model.set_compute_dtype(torch.bfloat16)
    Fp8Settings("fp8").build(model.vit)
    graphs: list[torch.fx.GraphModule] = []

    def kept(module: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        graphs.append(module)
        return make_boxed_func(module.forward)

    images = torch.randn(2, 3, 48, 48, dtype=torch.bfloat16)
    expected = model.vit(images)
    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=kept, bw_compiler=kept)
    got = torch.compile(model.vit, backend=backend, fullgraph=True)(images)
    torch.testing.assert_close(got, expected)
    got.float().sum().backward()
    forward, backward = (
        [str(node.target) for node in graph.graph.nodes if node.op == "call_function"] for graph in graphs
    )
    products = 4 * model.vit.depth + 1  # queries of the last block apart
    assert sum("scaled_mm" in name for name in forward) == products
    assert (
        sum("scaled_mm" in name for name in backward) == products - 4
    )  # nothing learns before the first block's adapter
    assert not any("quantise" in name for name in (*forward, *backward))
