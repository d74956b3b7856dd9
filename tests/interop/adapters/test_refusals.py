"""Wrong use of the adapters: one clear message each, and the model is left as it was."""

from typing import Any, get_args

import pytest
import torch
from interop.adapters.models import build, timm_vit
from torch import nn

import fastlift
from fastlift.interop.adapters.attach import MODULES, DropIn
from fastlift.interop.adapters.own_weights import OWN_WEIGHTS
from fastlift.interop.adapters.sites import AT_SITES
from fastlift.models import tuners


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank: expected a whole number from 1 to 2147483647, got 0"),
        ({"rank": 2.0}, r"got 2\.0"),
        ({"layers": 0}, r"layers: expected 1 to 3 \(the last k blocks\), got 0"),
        ({"layers": 4}, "got 4"),
        ({"layers": [0, 3]}, r"expected indices from 0 to 2, got \[0, 3\]"),
        ({"layers": []}, "expected indices"),
        ({"layers": "all"}, "layers: expected a number of blocks or a list of indices, got 'all'"),
        ({"layers": [1.5]}, r"layers: expected a number of blocks or a list of indices, got \[1.5\]"),
        ({"tuner": "adaptfomer"}, "did you mean adaptformer"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    model = build("timm")
    before = list(model.state_dict())
    with pytest.raises(fastlift.UserError, match=message):
        fastlift.add_adapters(model, **options)
    assert list(model.state_dict()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_twice() -> None:
    model = build("timm")
    fastlift.add_adapters(model)
    for again in (model, nn.Sequential(model)):
        with pytest.raises(fastlift.UserError, match=r"has adapters already; fastlift\.remove_adapters"):
            fastlift.add_adapters(again)
    fastlift.remove_adapters(model)
    for ask in (fastlift.remove_adapters, fastlift.tuner_parameters):
        with pytest.raises(fastlift.UserError, match="has no adapters"):
            ask(model)
    fastlift.add_adapters(model)


def test_models_that_are_not_known() -> None:
    import torchvision

    looked_for = "Looked for a list of one of: open_clip's ResidualAttentionBlock, timm's Block"
    unknown = [
        nn.Linear(3, 3),
        torchvision.models.resnet18(),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2),
    ]
    for model in unknown:
        with pytest.raises(fastlift.UserError, match=looked_for):
            fastlift.add_adapters(model)


def test_blocks_without_a_norm_before_the_mlp() -> None:
    from timm.models.vision_transformer import ResPostBlock

    with pytest.raises(
        fastlift.UserError, match=r"in ResPostBlock, norms come after attention and MLP, and adapters need"
    ):
        fastlift.add_adapters(timm_vit(block_fn=ResPostBlock))
    model = build("timm")
    model.blocks[1].norm2 = nn.Identity()
    with pytest.raises(fastlift.UserError, match=r"blocks\.1 has no LayerNorm before its MLP: .* found Identity"):
        fastlift.add_adapters(model)


def test_text_towers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=64, max_position_embeddings=8, **sizes))
    with pytest.raises(fastlift.UserError, match="no Conv2d"):
        fastlift.add_adapters(text)
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=64, **sizes))
    with pytest.raises(fastlift.UserError, match="in BertLayer, norms come after attention and MLP"):
        fastlift.add_adapters(bert)


def test_our_own_model_has_its_own_way(tiny_clip: Any) -> None:
    config, weights = tiny_clip
    model = fastlift.create_model(config, pretrained=weights, class_names=["a", "b"])
    with pytest.raises(fastlift.UserError, match=r"fastlift\.create_model"):
        fastlift.add_adapters(model)


def test_a_block_of_another_version_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.vision_transformer import Block

    def parallel(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))

    monkeypatch.setattr(Block, "forward", parallel)
    with pytest.raises(fastlift.UserError, match="computes something else"):
        fastlift.add_adapters(build("timm"))


def test_its_tuners_are_those_that_it_declares() -> None:
    """The names that type checkers read are the tuners that there are, and a tuner refuses the same ranks here and there."""
    assert get_args(DropIn) == (*MODULES, *AT_SITES, *OWN_WEIGHTS)
    assert set(get_args(DropIn)) <= set(tuners.TUNERS)
    for rank in (0, 2**31):
        with pytest.raises(fastlift.UserError) as here:
            fastlift.add_adapters(build("timm"), rank=rank)
        with pytest.raises(fastlift.UserError) as there:
            tuners.TunerSettings(rank=rank)
        assert str(here.value) == str(there.value)
    for seed in (-1, 2**63):
        with pytest.raises(fastlift.UserError, match="seed: expected a whole number from 0 to 2\\^63 - 1"):
            fastlift.add_adapters(build("timm"), seed=seed)
