"""Every tuner against the method written out plainly: one block after the other, no sites, float64.

The golden numbers of the authors cover some of the tuners; this covers all of them, together and in some blocks only.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import CLASS_NAMES, Files
from safetensors.torch import load_file
from torch import Tensor

import fastlift
from fastlift.models import tuners
from fastlift.models.lift import LiftModel

Tensors = dict[str, Tensor]
D, HEADS, DEPTH, TOKENS = 48, 3, 3, 17
RATIO, SEED = 0.05, 2  # of the mask
BLOCKS = "visual.transformer.resblocks"
PRODUCTS = {"attn_in": "attn.in_proj_", "attn_out": "attn.out_proj.", "mlp_in": "mlp.c_fc.", "mlp_out": "mlp.c_proj."}

pytestmark = pytest.mark.usefixtures("weights_read_once")


def norm(x: Tensor, weights: Tensors, name: str) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weights[f"{name}.weight"], weights[f"{name}.bias"])


def product(x: Tensor, i: int, site: str, frozen: Tensors, tuned: Tensors) -> Tensor:
    """x W^T + b, with what the mask trains in the place of the entries that it chose."""
    weight, bias = (frozen[f"{BLOCKS}.{i}.{PRODUCTS[site]}{kind}"] for kind in ("weight", "bias"))
    name = f"masked_linear_list.{i}.{site}"
    if f"{name}.optimized_weight" in tuned:
        weight = weight.masked_scatter(tuned[f"{name}.mask"][:, :-1], tuned[f"{name}.optimized_weight"])
        bias = bias.masked_scatter(tuned[f"{name}.mask"][:, -1], tuned[f"{name}.optimized_bias"])
    return x @ weight.T + bias


def lora(x: Tensor, tuned: Tensors, name: str) -> Tensor | float:
    if f"{name}.lora_A" not in tuned:
        return 0.0
    down, up = tuned[f"{name}.lora_A"], tuned[f"{name}.lora_B"]
    return x @ down @ up * (1 / down.shape[1])


def ssf(x: Tensor, tuned: Tensors, name: str) -> Tensor:
    return x * tuned[f"{name}.scale"] + tuned[f"{name}.shift"] if f"{name}.scale" in tuned else x


def bottleneck(x: Tensor, tuned: Tensors, name: str) -> Tensor:
    x = norm(x, tuned, f"{name}.ln")
    hidden = torch.relu(x @ tuned[f"{name}.down_proj.weight"].T + tuned[f"{name}.down_proj.bias"])
    return hidden @ tuned[f"{name}.up_proj.weight"].T + tuned[f"{name}.up_proj.bias"]


def attention(x: Tensor, i: int, frozen: Tensors, tuned: Tensors) -> Tensor:
    x = ssf(norm(x, frozen, f"{BLOCKS}.{i}.ln_1"), tuned, f"ssf_ln_list.{i}.ln_1")
    q, k, v = product(x, i, "attn_in", frozen, tuned).chunk(3, dim=-1)
    q, v = q + lora(x, tuned, f"lora_list.{i}.q"), v + lora(x, tuned, f"lora_list.{i}.v")
    q, k, v = ssf(torch.cat([q, k, v], dim=-1), tuned, f"ssf_attn_list.{i}.attn_in").chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / (D // HEADS) ** 0.5).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).flatten(-2)
    return ssf(product(mixed, i, "attn_out", frozen, tuned), tuned, f"ssf_attn_list.{i}.attn_out")


def mlp(t: Tensor, i: int, frozen: Tensors, tuned: Tensors) -> Tensor:
    x = ssf(norm(t, frozen, f"{BLOCKS}.{i}.ln_2"), tuned, f"ssf_ln_list.{i}.ln_2")
    hidden = product(x, i, "mlp_in", frozen, tuned) + lora(x, tuned, f"lora_mlp_list.{i}.1")
    hidden = ssf(hidden, tuned, f"ssf_mlp_list.{i}.mlp_in")
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    m = product(hidden, i, "mlp_out", frozen, tuned) + lora(hidden, tuned, f"lora_mlp_list.{i}.2")
    return ssf(m, tuned, f"ssf_mlp_list.{i}.mlp_out")


def features(images: Tensor, frozen: Tensors, tuned: Tensors) -> Tensor:
    """The class token after the last block and norm, with the tuners in the order of the authors' programs."""
    patches = F.conv2d(images, frozen["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    tokens = torch.cat([frozen["visual.class_embedding"].expand(len(images), 1, -1), patches], dim=1)
    x = norm(tokens + frozen["visual.positional_embedding"], frozen, "visual.ln_pre")
    for i in range(DEPTH):
        if f"vpt_list.{i}.prompt" in tuned:
            x = torch.cat([x[:, :TOKENS], tuned[f"vpt_list.{i}.prompt"].expand(len(x), -1, -1)], dim=1)
        t = x + attention(x, i, frozen, tuned)
        m = mlp(t, i, frozen, tuned)
        if f"adapter_list.{i}.ln.weight" in tuned:
            m = m + bottleneck(m, tuned, f"adapter_list.{i}")
        if f"adaptformer_list.{i}.scale" in tuned:
            m = m + tuned[f"adaptformer_list.{i}.scale"] * bottleneck(t, tuned, f"adaptformer_list.{i}")
        x = t + m
    return norm(x[:, 0], frozen, "visual.ln_post")


def own_weights(frozen: Tensors, tuned: Tensors) -> Tensors:
    """The frozen weights, and in their place those that bias, layernorm and full train, by the authors' numbering."""
    replaced = dict(frozen)
    order = ("attn.in_proj_", "attn.out_proj.", "ln_1.", "mlp.c_fc.", "mlp.c_proj.", "ln_2.")
    biases = [f"{BLOCKS}.{i}.{part}bias" for i in range(DEPTH) for part in order]
    norms = [f"{BLOCKS}.{i}.{part}" for i in range(DEPTH) for part in ("ln_1", "ln_2")]
    for name, tensor in tuned.items():
        kind, *rest = name.split(".")
        if kind == "bias_tuned":
            replaced[biases[int(rest[0])]] = tensor
        if kind == "ln_tuned":
            replaced[f"{norms[int(rest[0])]}.{rest[1]}"] = tensor
        if kind == "block_tuned":
            place = f"{BLOCKS}.{'.'.join(rest)}"
            assert place in frozen
            replaced[place] = tensor
    return replaced


def masks(frozen: Tensors, blocks: list[int]) -> Tensors:
    generator = torch.Generator().manual_seed(SEED)
    drawn: Tensors = {}
    for i in blocks:
        for site, part in PRODUCTS.items():
            rows, columns = frozen[f"{BLOCKS}.{i}.{part}weight"].shape
            entries = rows * (columns + 1)
            mask = torch.zeros(entries, dtype=torch.bool)
            mask[torch.randperm(entries, generator=generator)[: int(entries * RATIO)]] = True
            drawn[f"masked_linear_list.{i}.{site}.mask"] = mask.view(rows, columns + 1)
    return drawn


def build(tiny_clip: Files, tuner: Any, layers: Any) -> LiftModel:
    """A model whose tuner is anywhere but at its start."""
    model = fastlift.create_model(
        tiny_clip[0],
        pretrained=tiny_clip[1],
        class_names=CLASS_NAMES,
        tuner=tuner,
        layers=layers,
        rank=3,
        prompt_length=4,
        mask_ratio=RATIO,
        mask_seed=SEED,
        init="random",
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.tuner_parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


NAMES = [name for name in tuners.TUNERS if name != "none"]
CASES: list[tuple[Any, Any, list[int]]] = [("none", None, [])]
CASES += [(name, layers, blocks) for name in NAMES for layers, blocks in ((None, [0, 1, 2]), (2, [1, 2]), ([0], [0]))]
CASES += [
    (("lora", "ssf_attn", "ssf_ln"), None, [0, 1, 2]),
    (("adapter", "adaptformer", "ssf_mlp", "lora_mlp"), 2, [1, 2]),
    (("mask", "lora", "lora_mlp", "ssf_attn", "ssf_mlp"), [0, 2], [0, 2]),
    (("vpt_deep", "adaptformer", "layernorm", "ssf_ln"), [0, 2], [0, 2]),
    (("full", "adapter", "vpt_shallow"), 1, [2]),
]


@pytest.mark.parametrize(("tuner", "layers", "blocks"), CASES, ids=str)
def test_it_computes_the_method(tiny_clip: Files, tuner: Any, layers: Any, blocks: list[int]) -> None:
    """Features, and the gradients of all that trains."""
    frozen = {name: tensor.double() for name, tensor in load_file(tiny_clip[1]).items()}
    model = build(tiny_clip, tuner, layers)
    images, towards = torch.randn(4, 3, 32, 32), torch.randn(4, D)
    found = model.features(images)
    tuned = {name: p.detach().double().requires_grad_(True) for name, p in model.tuner_parameters.items()}
    expected = features(images.double(), own_weights(frozen, tuned), tuned | masks(frozen, blocks))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    if not tuned:
        return
    grads = torch.autograd.grad((found * towards).sum(), list(model.tuner_parameters.values()))
    wanted = torch.autograd.grad((expected * towards.double()).sum(), list(tuned.values()))
    largest = max(float(grad.abs().max()) for grad in wanted)
    for name, grad, exact in zip(tuned, grads, wanted, strict=True):
        torch.testing.assert_close(
            grad.double(), exact, rtol=1e-3, atol=1e-5 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
