"""The classifier from text with parts that learn: CoOp, CLIP-Adapter, projections, tuners in the text tower."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, train_on
from torch import Tensor

import fastlift
from fastlift.models import backbones
from fastlift.models.lift import LiftModel
from fastlift.models.text import tower as text_tower
from fastlift.models.text.classifier import TextClassifier
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

LABELS = torch.arange(8) % len(CLASS_NAMES)
INSIDE = ("adaptformer", "adapter", "lora", "lora_mlp", "bias", "layernorm", "mask", "full")
RANDOM = ("ssf_attn", "ssf_mlp", "ssf_ln", "vpt_shallow", "vpt_deep", "coop")
EVERY = (*INSIDE, *RANDOM, "clip_adapter", "projection")


def build(tiny_clip: Files, text_tuner: Any = "none", **settings: Any) -> LiftModel:
    defaults = {"tuner": "none", "classifier": "text", "rank": 3, "prompt_length": 2, "mask_ratio": 0.3}
    return fastlift.create_model(
        tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, text_tuner=text_tuner, **defaults | settings
    )


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def zero_shot(tiny_clip: Files, **settings: Any) -> LiftModel:
    return fastlift.create_model(
        tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, tuner="none", classifier="zero_shot", **settings
    )


def test_without_tuners_it_is_zero_shot(tiny_clip: Files) -> None:
    """The tower in blocks of ours, bound to the class prompts, computes what open_clip's own does."""
    model, plain = build(tiny_clip), zero_shot(tiny_clip)
    assert not model.trained()
    with torch.no_grad():
        torch.testing.assert_close(model(images()), plain(images()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(images()), plain(images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*INSIDE, "clip_adapter", "projection"])
def test_training_starts_at_zero_shot(tiny_clip: Files, name: str) -> None:
    torch.testing.assert_close(build(tiny_clip, name)(images()), zero_shot(tiny_clip)(images()), rtol=1e-4, atol=1e-4)


def test_words_of_the_prompt_as_a_start_are_zero_shot_too(tiny_clip: Files) -> None:
    model = build(tiny_clip, "coop", coop_init="prompt")
    assert model.head_parameters["context"].shape == (5, 16)  # a photo of a ... .
    torch.testing.assert_close(model(images()), zero_shot(tiny_clip)(images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_it_learns_only_it_moves_and_it_is_kept(tiny_clip: Files, name: str) -> None:
    model = build(tiny_clip, name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tuned = {key: parameter.detach().clone() for key, parameter in model.trained().items()}
    assert tuned
    with torch.no_grad():
        untrained = model(images())
    some = Learner(model, fastlift.losses.build("LA", CLASS_COUNTS), OptimizerSettings(lr=0.01))
    values = train_on(some, images(), LABELS, 6)
    assert min(values[1:]) < values[0] - 1e-3
    still = [key for key, parameter in model.trained().items() if torch.equal(parameter, tuned[key])]
    assert not still
    intended = {id(parameter) for parameter in model.trained().values()}
    for key, parameter in model.named_parameters():
        assert id(parameter) in intended or torch.equal(parameter, before[key]), key
    with torch.no_grad():
        trained = model(images())  # class features that were kept before the training are not used again
    assert not torch.allclose(trained, untrained, atol=1e-4)
    torch.testing.assert_close(trained, model(images()).detach())

    other = build(tiny_clip, name, seed=9)
    other.load_trained({key: parameter.detach() for key, parameter in model.trained().items()})
    with torch.no_grad():
        torch.testing.assert_close(other(images()), trained, rtol=1e-5, atol=1e-5)


def test_the_text_tower_has_sizes_of_its_own(tiny_clip: Files) -> None:
    """LIFT+'s by default, and given ones; the image side's do not reach it."""
    shapes = {key: tuple(p.shape) for key, p in build(tiny_clip, ("lora", "vpt_deep"), rank=7).tuner_parameters.items()}
    assert shapes["text.lora_list.0.q.lora_A"] == (16, 4)
    assert shapes["text.vpt_list.1.prompt"] == (2, 16)
    model = build(tiny_clip, "adapter", tuner="adapter", rank=3, layers=2, text_rank=5, text_layers=1)
    names = [key for key in model.tuner_parameters if key.endswith("down_proj.bias")]
    assert names == [f"{side}adapter_list.{i}.down_proj.bias" for side, i in (("", 1), ("", 2), ("text.", 1))]
    assert [len(model.tuner_parameters[name]) for name in names] == [3, 3, 5]
    mask = build(tiny_clip, "mask", mask_ratio=None, sizes="lift_plus").tuner_parameters
    share = min(1.0, len(CLASS_NAMES) / (2 * (12 * 16 + 9)))  # of the text tower's own two blocks of width 16
    assert len(mask["text.masked_linear_list.0.mlp_in.optimized_weight"]) == int(64 * 16 * share)


@pytest.mark.parametrize(
    ("position", "length", "template", "places"),
    [
        ("end", 4, "X X X X {}.", [1, 2, 3, 4]),
        ("front", 2, "{} X X.", [-3, -2]),
        ("middle", 3, "X {} X X.", [1, -3, -2]),
    ],
)
def test_where_the_context_stands(
    tiny_clip: Files, position: Any, length: int, template: str, places: list[int]
) -> None:
    """Negative places count back from the end-of-text token; the full stop stays a word of the prompt."""
    model = build(tiny_clip, "coop", coop_length=length, coop_position=position)
    assert isinstance(model.classifier, TextClassifier)
    text, tower = model.classifier.text, backbones.load(*tiny_clip).text
    assert tower is not None
    tokens = tower.tokenize([template.replace("{}", name.replace("_", " ")) for name in CLASS_NAMES])
    ends = tokens.argmax(dim=1)
    expected = torch.stack([torch.tensor([p if p > 0 else int(end) + p for p in places]) for end in ends])
    assert torch.equal(text.places, expected)
    placeholder = tower.tokenize(["X"])[0, 1]
    assert (tokens.gather(1, text.places) == placeholder).all()


def test_large_class_sets_are_encoded_in_parts(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tiny_clip, "coop")
    whole(images()).square().mean().backward()
    monkeypatch.setattr(text_tower, "CHUNK", 4)
    parts = build(tiny_clip, "coop")
    torch.testing.assert_close(parts(images()), whole(images()), rtol=1e-5, atol=1e-5)
    parts(images()).square().mean().backward()
    expected = whole.head_parameters["context"].grad
    torch.testing.assert_close(parts.head_parameters["context"].grad, expected, rtol=1e-4, atol=1e-6)


def test_both_sides_together(tiny_clip: Files) -> None:
    model = build(tiny_clip, ("coop", "clip_adapter", "projection", "lora"), tuner="adaptformer")
    model(images()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.trained().values())
    assert {key.split(".")[1] for key in model.trained()} == {
        *("adaptformer_list", "text", "context", "text_projection", "image_projection", "image_adapter", "text_adapter")
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compute_dtypes(tiny_clip: Files, dtype: torch.dtype) -> None:
    model = build(tiny_clip, ("coop", "adaptformer"))
    exact = model(images()).detach()
    model.set_compute_dtype(dtype)
    with torch.no_grad():
        rounded = model(images())
    assert rounded.dtype == torch.float32
    assert F.cosine_similarity(rounded, exact).min() > 0.99
    assert {parameter.dtype for parameter in model.trained().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_tuner": "coop", "classifier": "cosine"}, "with classifier text"),
        ({"text_tuner": "cop"}, "did you mean coop"),
        ({"text_tuner": ("coop", "coop")}, "different ones"),
        ({"text_tuner": ("full", "bias")}, "already"),
        ({"text_tuner": "coop", "coop_length": 0}, "coop_length"),
        ({"text_tuner": "coop", "coop_length": 100}, "fill all [0-9]+ tokens"),
        ({"text_tuner": "coop", "coop_init": "prompt", "prompt": "many {}s."}, "run into the class names"),
        ({"text_tuner": "lora", "text_layers": 3}, "^text_layers: .*1 to 2"),
        ({"text_tuner": "lora", "text_rank": 0}, "^text_rank: expected a whole number from 1"),
        ({"text_tuner": "coop", "coop_init": "prompt", "prompt": "classname"}, "no words"),
        ({"prompt": "ensemble"}, "one template"),
        ({"prompt": "descriptor:names.json"}, "one template"),
    ],
)
def test_mistakes(tiny_clip: Files, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(fastlift.UserError, match=message):
        build(tiny_clip, **settings)
