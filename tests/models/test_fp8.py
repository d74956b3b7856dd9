"""Frozen products in fp8: how far the rounding goes, what backward sees, what is left alone. On a CPU torch emulates them."""

import pytest
import torch

import fastlift
from fastlift.models.fp8 import Fp8Linear, Fp8QKV, check_fp8, quantise_frozen, to_fp8
from fastlift.models.lift import create_model
from fastlift.models.vit import Linear


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
    rounded, scale = to_fp8(x)
    largest = x.abs().amax(dim=1, keepdim=True)
    error = (rounded.float() * scale - x).abs()
    assert (error <= torch.maximum(x.abs() / 16, largest * 2.0**-18)).all()  # half a unit of 2^-3; below, subnormals
    assert rounded.float().abs().amax(dim=1).eq(448).all()


def test_rows_of_zeros_stay() -> None:
    rounded, scale = to_fp8(torch.zeros(2, 16))
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
    weight = (fp8.weight.float() * fp8.scale).to(torch.bfloat16)
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
    assert quantise_frozen(model.vit) == 4 * model.vit.depth
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
        quantise_frozen(model.vit)


@needs_product
def test_lora_beside_products_in_fp8() -> None:
    model = create_model("shapes-clip", class_names=["a", "b"], tuner="lora")
    model.set_compute_dtype(torch.bfloat16)
    images = torch.randn(2, 3, 48, 48, dtype=torch.bfloat16)
    before = model(images).detach()
    assert quantise_frozen(model.vit) == 4 * model.vit.depth
    logits = model(images)
    assert (logits - before).norm() < 0.15 * before.norm()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.trained().values())


def test_refused_on_a_cpu_before_anything_is_loaded() -> None:
    with pytest.raises(fastlift.UserError, match="needs a GPU with fp8 units"):
        check_fp8(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(fastlift.UserError, match="needs a GPU with fp8 units"):
        fastlift.train(fastlift.recipes.lift("shapes_lt", frozen="fp8", device="cpu"))
