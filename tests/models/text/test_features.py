"""Text features: cutting to the longest prompt changes nothing, and the cache never mistakes one model for another."""

import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import CLASS_NAMES, TINY_CONFIG
from open_clip import SimpleTokenizer
from open_clip.model import CLIP, CustomTextCLIP

from fastlift.errors import UserError
from fastlift.models.backbones.backbone import TextTower
from fastlift.models.text import features as text
from fastlift.models.text.features import encode_prompts, prompts_for, text_features

PROMPTS = ["cat", "a photo of a very small and somewhat unusual grey cat.", "a photo of a dog.", "x " * 60]


def tower(kind: type = CLIP, **text_cfg: Any) -> TextTower:
    config = TINY_CONFIG | {"text_cfg": TINY_CONFIG["text_cfg"] | text_cfg}
    torch.manual_seed(1)
    return TextTower(kind(**config).eval(), SimpleTokenizer(context_length=77))


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_cutting_prompts_is_exact(kind: type, pool: str) -> None:
    some = tower(kind, pool_type=pool, eos_id=49407)
    plain = F.normalize(some.model.encode_text(some.tokenize(PROMPTS)), dim=1).detach()  # type: ignore[operator]
    torch.testing.assert_close(encode_prompts(some, PROMPTS), plain, rtol=1e-5, atol=1e-6)


def test_batches_are_cut_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    some = tower()
    lengths: list[int] = []
    encode = text.encode_tokens
    monkeypatch.setattr(text, "PROMPTS_A_BATCH", 2)
    monkeypatch.setattr(
        text, "encode_tokens", lambda model, tokens: (lengths.append(tokens.shape[1]), encode(model, tokens))[1]
    )
    together = encode_prompts(some, PROMPTS)
    assert lengths == [8, 62]  # start, 'a photo of a dog.', end; then the two long ones
    alone = torch.cat([encode_prompts(some, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_towers_that_see_padding_are_left_whole() -> None:
    """SigLIP's text tower is not causal and pools the last position: cutting would change it."""
    some = tower(CustomTextCLIP, no_causal_mask=True, pool_type="last")
    plain = F.normalize(some.model.encode_text(some.tokenize(PROMPTS)), dim=1).detach()  # type: ignore[operator]
    torch.testing.assert_close(encode_prompts(some, PROMPTS), plain, rtol=1e-5, atol=1e-6)


def test_prompts() -> None:
    assert prompts_for(["green_leaf"], "default") == [["a photo of a green leaf."]]
    assert prompts_for(["green_leaf"], "classname") == [["green leaf"]]
    assert prompts_for(["cat {}"], "the {} here, {}") == [["the cat {} here, cat {}"]]
    ensemble = prompts_for(["cat", "dog"], "ensemble")
    assert len(ensemble) == 2
    assert len(set(ensemble[0])) == 80
    assert all("dog" in prompt for prompt in ensemble[1])


def test_descriptors(tmp_path: Path) -> None:
    file = tmp_path / "descriptors.json"
    file.write_text(json.dumps({"green_leaf": ["a leaf", "it is_green"], "cat": "a cat"}))
    assert prompts_for(["green leaf", "cat"], f"descriptor:{file}") == [["a leaf", "it is green"], ["a cat"]]
    with pytest.raises(UserError, match=r"1 classes \(first: dog\)"):
        prompts_for(["cat", "dog"], f"descriptor:{file}")
    for wrong in (3, ["a cat", 3], {"a": "b"}):
        file.write_text(json.dumps({"cat": wrong}))
        with pytest.raises(UserError, match="a list of sentences for 'cat'"):
            prompts_for(["cat"], f"descriptor:{file}")


@pytest.mark.parametrize("prompt", ["no braces", "descriptor", "descriptor:", "descriptor:nowhere.json"])
def test_prompts_that_cannot_be_used(prompt: str) -> None:
    with pytest.raises(UserError, match="expected"):
        prompts_for(["cat"], prompt)


def test_ensembles_are_means_of_normed_features(tmp_path: Path) -> None:
    some = tower()
    features = text_features(some, ["cat", "dog"], "ensemble", cache=tmp_path)
    for row, prompts in zip(features, prompts_for(["cat", "dog"], "ensemble"), strict=True):
        torch.testing.assert_close(row, encode_prompts(some, prompts).mean(dim=0), rtol=1e-5, atol=1e-6)


def test_cache_is_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = tower()
    first = text_features(some, CLASS_NAMES, cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(text, "encode_prompts", lambda *_: pytest.fail("the cache should have been used"))
        torch.testing.assert_close(text_features(some, CLASS_NAMES, cache=tmp_path), first, rtol=0, atol=0)
    assert len(list(tmp_path.glob("text_features/*"))) == 1
    text_features(some, CLASS_NAMES[::-1], cache=tmp_path)
    text_features(some, CLASS_NAMES, "classname", cache=tmp_path)
    assert len(list(tmp_path.glob("text_features/*"))) == 3
    with torch.no_grad():  # exchanging two weights keeps every sum
        weights = some.model.transformer.resblocks[0].mlp.c_fc.weight  # type: ignore[union-attr,index]
        weights[0, 0], weights[0, 1] = weights[0, 1].clone(), weights[0, 0].clone()
    other = text_features(some, CLASS_NAMES, cache=tmp_path)
    assert not torch.equal(other, first)


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_damaged_or_unwritable_cache_costs_time_only(content: bytes | None, tmp_path: Path) -> None:
    some = tower()
    expected = text_features(some, CLASS_NAMES, cache=tmp_path / "good")
    place = tmp_path / "other"
    if content is None:
        place.write_text("a file where the folder should be")
    else:
        cached = next((tmp_path / "good" / "text_features").iterdir())
        (place / "text_features").mkdir(parents=True)
        (place / "text_features" / cached.name).write_bytes(content)
    with nullcontext() if content is None else pytest.warns(UserWarning, match=r"damaged.*made again"):
        torch.testing.assert_close(text_features(some, CLASS_NAMES, cache=place), expected, rtol=0, atol=0)


def test_a_flipped_bit_in_the_cache_is_never_used(tmp_path: Path) -> None:
    """It is made again, with a word, and the cache is whole afterwards."""
    some = tower()
    expected = text_features(some, CLASS_NAMES, cache=tmp_path)
    (file,) = (tmp_path / "text_features").iterdir()
    whole = file.read_bytes()
    for place in (3, 20, 90, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        file.write_bytes(flipped)
        with pytest.warns(UserWarning, match=r"damaged.*made again"):
            assert torch.equal(text_features(some, CLASS_NAMES, cache=tmp_path), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(text_features(some, CLASS_NAMES, cache=tmp_path), expected)
        whole = file.read_bytes()  # safetensors puts the metadata in any order


def test_another_towers_cache_under_this_name_is_not_used(tmp_path: Path) -> None:
    some = tower()
    expected = text_features(some, CLASS_NAMES, cache=tmp_path / "a")
    text_features(some, CLASS_NAMES, "classname", cache=tmp_path / "b")
    (mine,), (other,) = ((tmp_path / name / "text_features").iterdir() for name in "ab")
    mine.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match="other features than its name says"):
        assert torch.equal(text_features(some, CLASS_NAMES, cache=tmp_path / "a"), expected)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    some = tower()
    with torch.no_grad():
        next(some.model.transformer.parameters()).fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="not finite"):
        text_features(some, CLASS_NAMES, cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
