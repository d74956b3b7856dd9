"""Frozen products in fp8: how far the rounding goes, what backward sees, what is left alone. On a CPU torch emulates them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastlift
import fastlift_kernels as kernels
from fastlift.models.create import create_model
from fastlift.models.fp8 import Fp8Linear, Fp8QKV, Fp8Settings
from fastlift.models.layers import Linear


def emulated() -> bool:
    try:
        create = torch.zeros(16, 16).to(torch.float8_e4m3fn)
        ones = torch.ones(16, 1)
        torch._scaled_mm(create, create.t(), ones, ones.t(), out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError):
        return False
    return True


needs_product = pytest.mark.skipif(not emulated(), reason="this torch has no scaled product on CPUs")


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


@needs_product
def test_product_and_its_gradient() -> None:
    linear = Linear(64, 48).requires_grad_(False)
    fp8 = Fp8Linear(linear)
    x = torch.randn(3, 7, 64, dtype=torch.bfloat16, requires_grad=True)
    y = fp8(x)
    assert y.shape == (3, 7, 48)
    assert y.dtype == torch.bfloat16
    exact = linear(x.detach().float())
    assert (y.float() - exact).norm() < 0.05 * exact.norm()
    gradient = torch.randn_like(y)
    (d_x,) = torch.autograd.grad(y, x, gradient)
    weight = (fp8.weight.float() * fp8.scale[:48]).to(torch.bfloat16)
    torch.testing.assert_close(d_x, gradient @ weight)


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
    """No pass of its own for the bias, fast accumulation, and no weight made anew in every backward."""
    linear = Linear(64, 48)
    torch.nn.init.normal_(linear.bias)
    product, calls = torch._scaled_mm, []
    monkeypatch.setattr(
        torch, "_scaled_mm", lambda *args, **options: calls.append(options) or product(*args, **options)
    )
    fp8 = Fp8Linear(linear.requires_grad_(False))
    x = torch.randn(5, 64, dtype=torch.bfloat16, requires_grad=True)
    with Ops() as forward:
        y = fp8(x)
    with Ops() as backward:
        y.sum().backward()
    assert [(c["bias"] is fp8.bias or torch.equal(c["bias"], fp8.bias), c["use_fast_accum"]) for c in calls] == [
        (True, True)
    ]
    assert not {"add", "add_"} & set(forward.names)
    assert backward.names.count("mm") == 1
    assert not {"_to_copy", "mul"} & set(backward.names)


@needs_product
@pytest.mark.parametrize("outputs", [48, 256])
def test_scales_are_there_as_far_as_the_product_reads(outputs: int) -> None:
    """Up to 256 of them together (pytorch#133334), after a move to another device too."""
    fp8 = Fp8Linear(Linear(64, outputs).requires_grad_(False))
    copied = fp8.to("meta")
    assert copied.scale.untyped_storage().nbytes() >= 4 * 256
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
