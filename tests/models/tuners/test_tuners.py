"""Every tuner: where it starts, that it learns, what it leaves alone, that it survives a file, and what it combines with."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, train_on
from torch import Tensor

import fastlift
from fastlift.models import backbones
from fastlift.models.lift import LiftModel
from fastlift.models.tuners import TUNERS, tuner_size
from fastlift.models.tuners.base import adaptive_rank
from fastlift.models.tuners.lora import adaptive_lora_rank
from fastlift.models.tuners.mask import adaptive_mask_ratio
from fastlift.models.tuners.prompts import adaptive_prompt_length
from fastlift.runs import checkpoints
from fastlift.runs.identity import Identity
from fastlift.runs.train_state import TrainState
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

VIT_TUNERS = tuple(name for name in TUNERS if name != "none")
STARTS_ELSEWHERE = ("ssf_attn", "ssf_mlp", "ssf_ln", "vpt_shallow", "vpt_deep")  # random starts, as in their papers
LABELS = torch.arange(8) % len(CLASS_NAMES)
pytestmark = pytest.mark.usefixtures("weights_read_once")


def build(tiny_clip: Files, tuner: Any, **settings: Any) -> LiftModel:
    defaults = {"rank": 3, "prompt_length": 4, "mask_ratio": 0.05, "init": "random"}
    return fastlift.create_model(
        tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, tuner=tuner, **defaults | settings
    )


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def learner(model: LiftModel, lr: float = 0.05) -> Learner:
    return Learner(model, fastlift.losses.build("LA", CLASS_COUNTS), OptimizerSettings(lr=lr))


@pytest.mark.parametrize("name", VIT_TUNERS)
def test_start(tiny_clip: Files, name: str) -> None:
    """Training starts at the frozen model, but for tuners that their papers start at random values."""
    frozen = backbones.load(*tiny_clip).vit(images())
    features = build(tiny_clip, name).features(images())
    if name in STARTS_ELSEWHERE:
        assert torch.nn.functional.cosine_similarity(features, frozen).min() > 0.5
        assert not torch.allclose(features, frozen, atol=1e-4)
    else:
        torch.testing.assert_close(features, frozen, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VIT_TUNERS)
def test_it_learns_and_only_it_moves(tiny_clip: Files, name: str) -> None:
    """With the classifier held still the loss falls, every tensor of the tuner moves, and no other does."""
    model = build(tiny_clip, name)
    model.classifier.requires_grad_(False)
    some = learner(model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tuned = {key: parameter.detach().clone() for key, parameter in model.tuner_parameters.items()}
    values = train_on(some, images(), LABELS, 6)
    assert values[-1] < values[0] - 1e-3
    assert all(not torch.equal(parameter, tuned[key]) for key, parameter in model.tuner_parameters.items())
    intended = {id(parameter) for parameter in model.tuner_parameters.values()}
    for key, parameter in model.named_parameters():
        assert id(parameter) in intended or torch.equal(parameter, before[key]), key
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, before[key]), key


@pytest.mark.parametrize("name", VIT_TUNERS)
def test_it_survives_a_checkpoint(tiny_clip: Files, name: str, tmp_path: Path) -> None:
    """Saved and restored into a model with another seed, training goes on with the same bits."""
    some, other = learner(build(tiny_clip, name)), learner(build(tiny_clip, name, seed=7))
    train_on(some, images(), LABELS, 2)
    place = TrainState(0, 2, 2, 0, 0.0, 0, 0.0, "data", "classes", "weights", {}, Identity("1", "2", "fp32"), ((0, 1),))
    checkpoints.save(tmp_path / "step-00000002.safetensors", some, place)
    assert checkpoints.restore(tmp_path / "step-00000002.safetensors", other) == place
    assert train_on(some, images(), LABELS, 2) == train_on(other, images(), LABELS, 2)
    for key, parameter in some.parameters.items():
        assert torch.equal(parameter, other.parameters[key]), key


@pytest.mark.parametrize("name", VIT_TUNERS)
@pytest.mark.parametrize(("layers", "blocks"), [(2, {1, 2}), ([0, 2], {0, 2})])
def test_layers(tiny_clip: Files, name: str, layers: Any, blocks: set[int]) -> None:
    """The last k blocks, or a list of them; the authors' numbering of biases (6 a block) and norms (2 a block) stays."""
    model = build(tiny_clip, name, layers=layers)
    a_block = {"bias": 6, "layernorm": 2}.get(name, 1)
    wanted = {0} if name == "vpt_shallow" else blocks
    assert {int(key.split(".")[1]) // a_block for key in model.tuner_parameters} == wanted
    assert torch.isfinite(model(images(2))).all()


# What of a block each tuner replaces, or trains.
PRODUCTS = {"qkv", "out", "mlp_in", "mlp_out"}
SITES = {
    "full": {*PRODUCTS, "norm_1", "pre_mlp"},
    "bias": {*PRODUCTS, "norm_1", "pre_mlp"},
    "layernorm": {"norm_1", "pre_mlp"},
    "mask": PRODUCTS,
    "adaptformer": {"pre_mlp"},
    "adapter": {"post_mlp"},
    "vpt_shallow": {"prompts"},
    "vpt_deep": {"prompts"},
    "lora": {"qkv"},
    "lora_mlp": {"mlp_in", "mlp_out"},
    "ssf_attn": {"qkv", "out"},
    "ssf_mlp": {"mlp_in", "mlp_out"},
    "ssf_ln": {"norm_1", "pre_mlp"},
}
CONFLICTS = {(name, other): why for name, kind in TUNERS.items() for other, why in kind.CONFLICTS.items()}
PAIRS = [pair for pair in combinations(VIT_TUNERS, 2) if SITES[pair[0]] & SITES[pair[1]] and pair not in CONFLICTS]


@pytest.mark.parametrize("name", VIT_TUNERS)
def test_sites(tiny_clip: Files, name: str) -> None:
    block = build(tiny_clip, name).vit.block(0)
    trained = {site for site, part in block.named_children() if any(p.requires_grad for p in part.parameters())}
    assert trained == SITES[name]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_combinations_at_one_site(tiny_clip: Files, pair: tuple[str, str]) -> None:
    """In either order the same model, all of it with gradients."""
    model, swapped = build(tiny_clip, pair), build(tiny_clip, pair[::-1])
    assert list(model.trained()) == list(swapped.trained())
    assert torch.equal(model(images(2)), swapped(images(2)))
    model(images(2)).square().sum().backward()
    missing = [key for key, parameter in model.trained().items() if parameter.grad is None]
    assert not missing
    kinds = [{key.split(".")[0] for key in build(tiny_clip, name, layers=1).tuner_parameters} for name in pair]
    assert {key.split(".")[0] for key in model.tuner_parameters} == kinds[0] | kinds[1]


@pytest.mark.parametrize("pair", list(CONFLICTS), ids="+".join)
def test_combinations_without_meaning_are_refused(tiny_clip: Files, pair: tuple[str, str]) -> None:
    for order in (pair, pair[::-1]):
        with pytest.raises(fastlift.UserError, match=f"{pair[0]} and {pair[1]} cannot.*{CONFLICTS[pair]}"):
            build(tiny_clip, order)


@pytest.mark.parametrize(
    ("tuner", "message"),
    [
        (("none", "bias"), "stands alone"),
        (("lora", "lora"), "different ones"),
        ((), "nothing"),
        ("vpt", "did you mean"),
    ],
)
def test_lists_of_tuners_that_are_refused(tiny_clip: Files, tuner: Any, message: str) -> None:
    with pytest.raises(fastlift.UserError, match=message):
        build(tiny_clip, tuner)


def reference_masks(vit: Any, layers: list[int], ratio: float, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The draw as the method's description tells it, in plain steps."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for i in layers:
        block = vit.block(i)
        for site, module in zip(
            ("attn_in", "attn_out", "mlp_in", "mlp_out"),
            (block.qkv, block.out, block.mlp_in, block.mlp_out),
            strict=True,
        ):
            rows, columns = module.weight.shape
            n = rows * (columns + 1)
            flat = torch.zeros(n, dtype=torch.bool)
            for entry in torch.randperm(n, generator=generator)[: int(n * ratio)].tolist():
                flat[entry] = True
            matrix = flat.reshape(rows, columns + 1)
            masks[f"{i}.{site}"] = (matrix[:, :columns], matrix[:, columns])
    return masks


@pytest.mark.parametrize(("layers", "blocks"), [(None, [0, 1, 2]), (2, [1, 2])])
def test_the_mask_is_drawn_as_the_authors_draw_it(tiny_clip: Files, layers: int | None, blocks: list[int]) -> None:
    frozen = backbones.load(*tiny_clip).vit
    model = build(tiny_clip, "mask", mask_ratio=0.01, mask_seed=3, layers=layers)
    masks = reference_masks(frozen, blocks, 0.01, 3)
    assert len(model.tuner_parameters) == 2 * len(masks)
    with torch.no_grad():
        for place, (weight_mask, bias_mask) in masks.items():
            i, site = place.split(".")
            name = {"attn_in": "qkv", "attn_out": "out"}.get(site, site)
            module, original = getattr(model.vit.block(int(i)), name), getattr(frozen.block(int(i)), name)
            for part, mask in (("weight", weight_mask), ("bias", bias_mask)):
                values = model.tuner_parameters[f"masked_linear_list.{place}.optimized_{part}"]
                assert torch.equal(values, getattr(original, part)[mask])  # row-major order
                values.fill_(7.0)
                expected = getattr(original, part).masked_fill(mask, 7.0)
                assert torch.equal(getattr(module, part), expected)


def test_a_mask_that_chooses_nothing_of_a_bias_gives_it_no_gradient(tiny_clip: Files) -> None:
    model = build(tiny_clip, "mask", mask_ratio=0.002, mask_seed=1)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    chosen = {name: len(values) for name, values in model.tuner_parameters.items()}
    assert 0 in chosen.values()
    assert all((values.grad is None) == (not len(values)) for values in model.tuner_parameters.values())
    with pytest.raises(fastlift.UserError, match="is not one of them"):
        build(tiny_clip, "mask", mask_ratio=1e-9)


@pytest.mark.parametrize(
    ("classes", "depth", "lora", "prompts", "share"),
    [
        (1000, 12, 16, 64, 1000 / (12 * 9225)),
        (365, 12, 4, 16, 365 / (12 * 9225)),
        (8142, 12, 128, 512, 8142 / (12 * 9225)),
        (100, 12, 2, 8, 100 / (12 * 9225)),
        (6, 12, 1, 1, 6 / (12 * 9225)),
    ],
)
def test_sizes_of_lift_plus(classes: int, depth: int, lora: int, prompts: int, share: float) -> None:
    """LoRA 2^floor(log2(C / (4 L))), prompts 2^floor(log2(C / L)), arbitrary share C / (L (12 D + 9)), for D = 768."""
    assert adaptive_lora_rank(classes, depth, "lift_plus") == lora
    assert adaptive_prompt_length(classes, depth, "lift_plus") == prompts
    assert adaptive_mask_ratio(classes, depth, 768, "lift_plus") == pytest.approx(share)


@pytest.mark.parametrize(
    ("classes", "width", "share"),
    [(1000, 768, 0.009), (365, 768, 0.003), (100, 768, 0.001), (10, 768, 0.001), (200_000, 768, 1.0)],
)
def test_sizes_of_lift(classes: int, width: int, share: float) -> None:
    """LoRA as AdaptFormer, ten prompts, a share rounded down to thousandths."""
    assert adaptive_lora_rank(classes, 12, "lift") == adaptive_rank(classes, 12)
    assert adaptive_prompt_length(classes, 12, "lift") == 10
    assert adaptive_mask_ratio(classes, 12, width, "lift") == pytest.approx(share)


def test_lift_plus_counts_the_blocks_that_learn(tiny_clip: Files) -> None:
    """Its L is the number of blocks with a tuner, where LIFT's is the model's depth."""
    names = [f"class {i}" for i in range(48)]
    ranks = {}
    for sizes in ("lift", "lift_plus"):
        model = fastlift.create_model(
            tiny_clip[0], pretrained=tiny_clip[1], class_names=names, init="random", layers=1, sizes=sizes
        )
        ranks[sizes] = model.tuner_settings.rank
    assert ranks == {"lift": 8, "lift_plus": 16}  # 48 / (2 * 3) and 48 / (2 * 1), to powers of two


def test_the_number_of_tuned_parameters_is_counted(tiny_clip: Files) -> None:
    model = build(tiny_clip, "lora", rank=2)
    parameters, share = tuner_size([model.vit], model.tuner_parameters)
    assert parameters == 3 * 2 * (48 * 2 + 2 * 48)
    assert share == pytest.approx(parameters / sum(p.numel() for p in model.vit.parameters()))
    both = build(tiny_clip, "full", classifier="text", text_tuner="full")
    assert 0.5 < tuner_size(both.towers, both.tuner_parameters)[1] < 1.0
