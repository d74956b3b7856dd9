"""LoRA and SSF in other libraries' models: equal to the weights that they amount to, and gone without a trace."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.adapters.models import MODELS, WIDTH, assert_copies_stand_alone, build, images, output, randomise, timm_vit
from packaging.version import Version
from torch import Tensor, nn

import fastlift
from fastlift.interop.adapters.own_weights import OWN_WEIGHTS
from fastlift.interop.adapters.sites import AT_SITES, NOT_HERE
from fastlift.models.tuners import TUNERS

RANK, LAYERS = 4, [0, 2]
# What a model does not have, as the refusal says it.
LACKS = {
    ("eva02", "lora_mlp"): "no Linear at mlp.fc1; its mlp is a SwiGLU",
    ("eva02", "ssf_mlp"): "no Linear at mlp.fc1; its mlp is a SwiGLU",
}
IS_OLD_DINOV2 = Version(version("transformers")) < Version("5.18")
if IS_OLD_DINOV2:
    for old in ("dinov2", "dinov2_registers"):
        LACKS |= dict.fromkeys(
            ((old, "lora"), (old, "ssf_attn")), "no Linear at attention.q_proj; its attention is a Dinov2"
        )


def attention_of(block: Any) -> Any:
    return next(
        getattr(block, name)
        for name in ("attn", "attention", "self_attn")
        if isinstance(getattr(block, name, None), nn.Module)
    )


def add_bias(module: Any, name: str, outputs: int) -> Tensor:
    if getattr(module, name) is None:
        setattr(module, name, nn.Parameter(torch.zeros(outputs)))
    return getattr(module, name).data


def qkv_rows(block: Any, place: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of queries (0), keys (1) or values (2), as views."""
    attention, rows = attention_of(block), slice(place * WIDTH, (place + 1) * WIDTH)
    if hasattr(attention, "in_proj_weight"):
        return attention.in_proj_weight.data[rows], attention.in_proj_bias.data[rows]
    if getattr(attention, "qkv", None) is not None:
        return attention.qkv.weight.data[rows], add_bias(attention.qkv, "bias", 3 * WIDTH)[rows]
    product = getattr(attention, f"{'qkv'[place]}_proj")
    return product.weight.data, add_bias(product, "bias", WIDTH)


def linear(block: Any, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    owner = attention_of(block) if names[0].startswith(("o", "proj")) else block.mlp
    product = next(getattr(owner, name) for name in names if getattr(owner, name, None) is not None)
    return product.weight.data, product.bias.data


OUT, IN_MLP, OUT_MLP = ("out_proj", "o_proj", "proj"), ("c_fc", "fc1", "up_proj"), ("c_proj", "fc2", "down_proj")


def merge(model: nn.Module, name: str, tuner: str, values: dict[str, Tensor]) -> None:
    """Put what a tuner amounts to into the weights, by the formulas alone."""
    for i in LAYERS:
        block: Any = model.get_submodule(f"{MODELS[name][1]}.{i}")
        mine = {key.split(".", 2)[2]: value for key, value in values.items() if key.split(".")[1] == str(i)}
        if tuner == "lora":
            for part, place in (("q", 0), ("v", 2)):
                qkv_rows(block, place)[0].add_((mine[f"{part}.lora_A"] @ mine[f"{part}.lora_B"] / RANK).T)
        elif tuner == "lora_mlp":
            for part, names in (("1", IN_MLP), ("2", OUT_MLP)):
                linear(block, names)[0].add_((mine[f"{part}.lora_A"] @ mine[f"{part}.lora_B"] / RANK).T)
        elif tuner == "ssf_ln":
            for part, norm in zip(("ln_1", "ln_2"), norms_of(block), strict=True):
                scale_and_shift((norm.weight.data, norm.bias.data), mine[f"{part}.scale"], mine[f"{part}.shift"])
        elif tuner == "ssf_mlp":
            for part, names in (("mlp_in", IN_MLP), ("mlp_out", OUT_MLP)):
                scale_and_shift(linear(block, names), mine[f"{part}.scale"], mine[f"{part}.shift"])
        else:
            for place in range(3):
                rows = slice(place * WIDTH, (place + 1) * WIDTH)
                parts = mine["attn_in.scale"][rows], mine["attn_in.shift"][rows]
                scale_and_shift(qkv_rows(block, place), *parts)
            scale_and_shift(linear(block, OUT), mine["attn_out.scale"], mine["attn_out.shift"])


def norms_of(block: Any) -> tuple[Any, Any]:
    for pair in (
        ("ln_1", "ln_2"),
        ("norm1", "norm2"),
        ("layer_norm1", "layer_norm2"),
        ("layernorm_before", "layernorm_after"),
    ):
        if hasattr(block, pair[0]):
            return getattr(block, pair[0]), getattr(block, pair[1])
    raise AssertionError(type(block))


def scale_and_shift(product: tuple[Tensor, Tensor], scale: Tensor, shift: Tensor) -> None:
    weight, bias = product
    weight.mul_(scale[:, None] if weight.dim() == 2 else scale)
    bias.mul_(scale).add_(shift)


def add(model: nn.Module, tuner: Any) -> dict[str, nn.Parameter]:
    rank = RANK if tuner.startswith("lora") else None
    trained = fastlift.add_adapters(model, tuner, rank=rank, layers=LAYERS)
    randomise(trained)
    return trained


@pytest.mark.parametrize("tuner", AT_SITES)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_the_formula_makes_of_the_weights(name: str, tuner: str) -> None:
    model, plain = build(name), build(name)
    frozen = output(model, images()).detach()
    if (name, tuner) in LACKS:
        with pytest.raises(fastlift.UserError, match=LACKS[name, tuner]):
            fastlift.add_adapters(model, tuner)  # type: ignore[arg-type]
        assert torch.equal(output(model, images()), frozen)
        return
    keys, kinds = set(model.state_dict()), [type(part) for part in model.modules()]
    trained = add(model, tuner)
    assert all(key.startswith(f"{TUNERS[tuner].PREFIX}.") for key in trained)
    assert keys <= set(model.state_dict())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(model.state_dict()) - keys
    merge(plain, name, tuner, {key: value.detach() for key, value in trained.items()})
    got = output(model, images())
    assert (got - frozen).abs().max() > 1e-4, "the tuner does nothing, so this test shows nothing"
    torch.testing.assert_close(got, output(plain, images()), rtol=1e-4, atol=2e-5)
    got.square().mean().backward()
    assert all(parameter.grad is not None for parameter in trained.values())
    fastlift.remove_adapters(model)
    assert [type(part) for part in model.modules()] == kinds
    assert set(model.state_dict()) == keys
    assert torch.equal(output(model, images()), frozen)


SMALL = ["open_clip", "timm", "clip_vision", "perception_encoder"]


@pytest.mark.parametrize("tuner", ["lora", "ssf_attn"])
@pytest.mark.parametrize("name", SMALL)
def test_copies_pickles_graphs_and_files(name: str, tuner: Any, tmp_path: Path) -> None:
    model = build(name)
    trained = add(model, tuner)
    wanted = output(model, images()).detach()
    assert_copies_stand_alone(model)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: output(model, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), wanted, rtol=1e-5, atol=1e-5)
    fastlift.save_adapters(model, tmp_path)
    fresh = build(name)
    loaded = fastlift.load_adapters(fresh, tmp_path)
    assert loaded.keys() == trained.keys()
    torch.testing.assert_close(output(fresh, images()), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(fastlift.UserError, match="other weights"):
        fastlift.load_adapters(build(name, seed=5), tmp_path)


def test_bf16_weights_and_autocast() -> None:
    for name in ("open_clip", "timm"):
        half = build(name).to(torch.bfloat16)
        for tuner in AT_SITES:
            trained = add(half, tuner)
            output(half, images().bfloat16()).float().square().mean().backward()
            assert {parameter.grad.dtype for parameter in trained.values()} == {torch.float32}
            fastlift.remove_adapters(half)


@pytest.mark.parametrize("tuner", NOT_HERE)
def test_tuners_that_cannot_live_here_say_why(tuner: Any) -> None:
    model = build("timm")
    with pytest.raises(fastlift.UserError, match=f"tuner {tuner} cannot be added to another library's model: it "):
        fastlift.add_adapters(model, tuner)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_tuner_is_either_here_or_has_a_reason() -> None:
    assert {*AT_SITES, *OWN_WEIGHTS, "adaptformer", "adapter"} | set(NOT_HERE) == set(TUNERS)
    with pytest.raises(fastlift.UserError, match="rank: tuner ssf_ln has no bottleneck"):
        fastlift.add_adapters(build("timm"), "ssf_ln", rank=4)


def test_a_block_that_goes_past_its_product_is_refused() -> None:
    """Another version might take the weight and leave the product uncalled: then a tuner there would learn nothing."""
    model: Any = build("timm")
    for block in model.blocks:
        block.mlp.forward = lambda x, mlp=block.mlp: nn.functional.linear(x, mlp.fc2.weight @ mlp.fc1.weight)
    with pytest.raises(fastlift.UserError, match="does not call the modules that it would act on"):
        fastlift.add_adapters(model, "lora_mlp")
    assert not any("fastlift" in key for key in model.state_dict())


@pytest.mark.parametrize("tuner", ["adaptformer", "adapter", *AT_SITES])
def test_random_numbers_stay_where_they_are(tmp_path: Path, tuner: Any) -> None:
    """Of a training that drops out: what it draws next does not depend on whether its model got adapters."""
    model = timm_vit(proj_drop_rate=0.5, drop_path_rate=0.5).train()
    before = torch.get_rng_state()
    fastlift.add_adapters(model, tuner)
    assert torch.equal(torch.get_rng_state(), before)
    fastlift.save_adapters(model, tmp_path)
    fastlift.remove_adapters(model)
    fastlift.load_adapters(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    model(images())
    assert not torch.equal(torch.get_rng_state(), before), "nothing was dropped out"


NO_BIASES = {
    "eva02": "of queries, keys and values of EvaBlock, not all have a bias",
    "beit": "of queries, keys and values of BeitLayer, not all have a bias",
    "beit_relative": "of queries, keys and values of BeitLayer, not all have a bias",
    "dinov3": "of queries, keys and values of DINOv3ViTLayer, not all have a bias",
}
if IS_OLD_DINOV2:
    NO_BIASES |= dict.fromkeys(
        ("dinov2", "dinov2_registers"), "no Linear at attention.q_proj; its attention is a Dinov2"
    )


@pytest.mark.parametrize("tuner", OWN_WEIGHTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_models_own_weights_train_leave_and_come_back(name: str, tuner: Any, tmp_path: Path) -> None:
    model = build(name)
    frozen, before = output(model, images()).detach(), {key: v.clone() for key, v in model.state_dict().items()}
    if tuner == "bias" and name in NO_BIASES:
        with pytest.raises(fastlift.UserError, match=NO_BIASES[name]):
            fastlift.add_adapters(model, tuner)
        assert all(parameter.requires_grad for parameter in model.parameters())
        return
    trained = fastlift.add_adapters(model, tuner, layers=LAYERS)
    assert model.state_dict().keys() == before.keys()
    mine = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    own = {id(parameter) for parameter in trained.values()}
    assert mine == {key for key, parameter in model.named_parameters() if id(parameter) in own}
    # Of each of the two blocks: all biases, or both norms; nothing of the block between them, and nothing outside.
    path = MODELS[name][1]
    wanted = {
        key
        for key in before
        for i in LAYERS
        if key.startswith(f"{path}.{i}.") and ((".bias" in key or "_bias" in key) if tuner == "bias" else norm_in(key))
    }
    assert mine == {key for key in wanted if key in dict(model.named_parameters())}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    lively = output(model, images())
    assert (lively - frozen).abs().max() > 1e-3
    lively.square().mean().backward()
    assert all(parameter.grad is not None for parameter in trained.values())
    fastlift.save_adapters(model, tmp_path)
    fresh = build(name)
    assert fastlift.load_adapters(fresh, tmp_path).keys() == trained.keys()
    assert torch.equal(output(fresh, images()), lively)
    for one in (model, fresh):
        fastlift.remove_adapters(one)
        assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())
        assert torch.equal(output(one, images()), frozen)
        assert all(parameter.requires_grad for parameter in one.parameters())


def norm_in(key: str) -> bool:
    return any(word in key for word in (".ln_", ".norm1.", ".norm2.", "layer_norm", "layernorm_"))


def test_own_weights_that_would_be_rounded_are_refused() -> None:
    half = build("timm").to(torch.bfloat16)
    with pytest.raises(fastlift.UserError, match=r"layernorm trains .* torch\.bfloat16, which rounds small steps away"):
        fastlift.add_adapters(half, "layernorm")
    trained = fastlift.add_adapters(half.float(), "layernorm")
    for again in (half, half.blocks):
        with pytest.raises(fastlift.UserError, match="has adapters already"):
            fastlift.add_adapters(again, "bias")  # type: ignore[arg-type]
    half.to(torch.bfloat16)  # to serve it
    assert fastlift.tuner_parameters(half).keys() == trained.keys()
    fastlift.remove_adapters(half)


def test_blocks_that_cannot_be_numbered_leave_no_adapters() -> None:
    """Biases are numbered through all blocks, so one that was not chosen can be in the way."""
    model: Any = build("timm")
    model.blocks[1].attn.proj = nn.Sequential(model.blocks[1].attn.proj)
    for _ in range(2):
        with pytest.raises(fastlift.UserError, match=r"no Linear at attn\.proj"):
            fastlift.add_adapters(model, "bias", layers=[0])
    fastlift.add_adapters(model, "layernorm", layers=[0])
