"""Adapters in other libraries' models: untouched at the start, equal to plain modules, gone without a trace."""

import pytest
import torch
from interop.adapters.models import DEPTH, MODELS, add_plain, build, images, output, randomise

import fastlift

NAMES = list(MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_the_frozen_model(name: str) -> None:
    model = build(name)
    before = output(model, images())
    trained = fastlift.add_adapters(model, rank=4)
    torch.testing.assert_close(output(model, images()), before, rtol=1e-5, atol=1e-5)
    training = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert training == {id(parameter) for parameter in trained.values()}
    assert len(trained) == 7 * DEPTH


@pytest.mark.parametrize("layers", [[0, 2], [1]])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_equal_plain_modules(name: str, layers: list[int], device: torch.device) -> None:
    ours, plain = build(name).to(device), build(name)
    trained = fastlift.add_adapters(ours, rank=4, layers=layers)
    reference = add_plain(plain, name, 4, layers)
    assert sorted(trained) == sorted(reference)
    randomise(trained)
    randomise(reference)
    plain.to(device)
    got, wanted = output(ours, images().to(device)), output(plain, images().to(device))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(3)).to(device)
    (got * weight).sum().backward()
    (wanted * weight).sum().backward()
    for key, parameter in reference.items():
        assert trained[key].device.type == device.type
        largest = parameter.grad.abs().max().item()
        torch.testing.assert_close(trained[key].grad, parameter.grad, rtol=1e-4, atol=1e-5 * max(1.0, largest))


@pytest.mark.parametrize("name", NAMES)
def test_removal_leaves_no_trace(name: str) -> None:
    model, untouched = build(name), build(name)
    for both in (model, untouched):  # which of PyTorch's attention kernels runs depends on the flags
        for i, parameter in enumerate(both.parameters()):
            parameter.requires_grad_(i % 2 == 0)
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    kinds = {key: type(module) for key, module in model.named_modules()}
    randomise(fastlift.add_adapters(model, rank=4))
    assert fastlift.remove_adapters(model) is model
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == flags
    assert {key: type(module) for key, module in model.named_modules()} == kinds
    assert torch.equal(output(model, images()), output(untouched, images()))


@pytest.mark.parametrize("name", NAMES)
def test_frozen_weights_keep_their_names(name: str) -> None:
    model, untouched = build(name), build(name)
    fastlift.add_adapters(model, rank=4, layers=1)
    more = set(model.state_dict()) - set(untouched.state_dict())
    assert set(untouched.state_dict()) < set(model.state_dict())
    assert len(more) == 7
    assert all(".fastlift_adapter." in key for key in more)


def test_only_the_vision_tower_of_a_clip_is_adapted() -> None:
    for name in ("open_clip", "clip_both"):
        model = build(name)
        fastlift.add_adapters(model, rank=4)
        adapted = [key for key, _ in model.named_parameters() if ".fastlift_adapter." in key]
        assert all(key.startswith(MODELS[name][1]) for key in adapted)


def test_serial_adapter_is_the_formula() -> None:
    model, untouched = build("timm"), build("timm")
    trained = fastlift.add_adapters(model, "adapter", rank=4, layers=[2])
    assert sorted(trained)[0].startswith("adapter_list.2.")
    x = untouched.blocks[1](untouched.blocks[0](torch.randn(2, 5, 32)))
    torch.testing.assert_close(model.blocks[2](x), untouched.blocks[2](x), rtol=1e-5, atol=1e-5)
    randomise(trained)
    block, a = untouched.blocks[2], {key.rsplit("list.2.")[1]: p for key, p in trained.items()}
    t = x + block.attn(block.norm1(x))
    m = block.mlp(block.norm2(t))
    normed = torch.nn.functional.layer_norm(m, (32,), a["ln.weight"], a["ln.bias"])
    hidden = torch.relu(normed @ a["down_proj.weight"].T + a["down_proj.bias"])
    wanted = t + m + hidden @ a["up_proj.weight"].T + a["up_proj.bias"]
    torch.testing.assert_close(model.blocks[2](x), wanted, rtol=1e-5, atol=1e-5)


def test_quick_gelu_becomes_one_pass_in_every_block_and_goes_back() -> None:
    model = build("clip_vision")
    fastlift.add_adapters(model, rank=4, layers=1)
    assert {type(layer.mlp.activation_fn).__name__ for layer in model.encoder.layers} == {"FusedQuickGELU"}
    fastlift.remove_adapters(model)
    assert {type(layer.mlp.activation_fn).__name__ for layer in model.encoder.layers} == {"QuickGELUActivation"}


def test_hidden_states_of_transformers_are_still_reported() -> None:
    model = build("vit")
    before = model(images(), output_hidden_states=True).hidden_states
    fastlift.add_adapters(model, rank=4)
    after = model(images(), output_hidden_states=True).hidden_states
    assert len(after) == len(before) == DEPTH + 1
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


class _Dinov2Layer(torch.nn.Module):
    """DINOv2's block as transformers had it before 5.18: no mask goes in, and attention returns one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attention = torch.nn.Linear(width, width)
        self.layer_scale1, self.layer_scale2, self.drop_path = (torch.nn.Identity() for _ in range(3))
        self.mlp = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU())
        self.mlp.activation_fn = self.mlp[1]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        t = self.drop_path(self.layer_scale1(self.attention(self.norm1(hidden_states)))) + hidden_states
        return self.drop_path(self.layer_scale2(self.mlp(self.norm2(t)))) + t


def test_blocks_that_take_no_mask() -> None:
    layer = type("Dinov2Layer", (_Dinov2Layer,), {"__module__": "transformers.models.dinov2.modeling_dinov2"})
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ModuleList([layer(8), layer(8)]))
    x = torch.randn(2, 4, 8)
    before = model[1][0](x)
    trained = fastlift.add_adapters(model, rank=4)
    torch.testing.assert_close(model[1][0](x), before, rtol=1e-5, atol=1e-5)
    randomise(trained)
    assert not torch.allclose(model[1][0](x), before, atol=1e-2)
