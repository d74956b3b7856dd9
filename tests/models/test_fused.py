"""Which own kernels a setting switches on; that they compute the same is tests/kernels/interpreted's."""

import pytest
import torch

from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.models.create import create_model
from fastlift.models.fused import FusedSettings
from fastlift_kernels.mlp import op

NAMES = ["red star", "blue disc", "green ring"]


def test_none_by_default() -> None:
    model = create_model("shapes-clip", class_names=NAMES)
    assert FusedSettings().build(model.vit) == []
    assert all(model.vit.block(i).fused_tokens == 0 for i in range(model.vit.depth))


def test_on_a_cpu_the_reason_is_told_and_nothing_changes() -> None:
    model = create_model("shapes-clip", class_names=NAMES)
    images = torch.randn(2, 3, *[model.preprocessing.image_size] * 2)
    before = model.features(images)
    (told,) = FusedSettings(("attention",)).build(model.vit)
    assert told.startswith("fused attention: the library's op runs, since ")
    assert "GPU" in told or "triton" in told
    assert torch.equal(model.features(images), before)


def test_the_mlp_in_a_dtype_that_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("shapes-clip", class_names=NAMES)
    monkeypatch.setattr(op, "triton_reason", lambda _: "")  # as on a GPU
    (told,) = FusedSettings(("mlp",)).build(model.vit)
    assert told.endswith("since the MLP's own products take bfloat16 and float16, not float32")
    assert model.vit.block(0).mlp_impl is None
    model.set_compute_dtype(torch.bfloat16)
    assert FusedSettings(("mlp",)).build(model.vit) == []
    assert all(model.vit.block(i).mlp_impl == "triton" for i in range(model.vit.depth))


def test_an_mlp_that_goes_site_by_site(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("shapes-clip", class_names=NAMES, tuner=("lora_mlp",), layers=1)
    model.set_compute_dtype(torch.bfloat16)
    monkeypatch.setattr(op, "triton_reason", lambda _: "")  # as on a GPU
    (told,) = FusedSettings(("mlp",)).build(model.vit)
    assert told.endswith(f"since the MLP of 1 of {model.vit.depth} blocks is in fp8, learns or has a tuner inside")


def test_other_backbones() -> None:
    (told,) = FusedSettings(("attention",)).build(torch.nn.Linear(2, 2))
    assert told == "fused attention: only vision transformers have such kernels"


def test_names_are_checked_and_may_change_in_a_resumed_run() -> None:
    with pytest.raises(UserError, match="fused"):
        FusedSettings(("attention", "everything"))  # type: ignore[arg-type]
    from fastlift.config import may_change

    config = Config().override(fused=("attention",))
    assert config.run.fused == ("attention",)
    assert "fused" in may_change(config)


def test_prompts_count_as_tokens() -> None:
    model = create_model("shapes-clip", class_names=NAMES, tuner=("vpt_shallow",), prompt_length=3)
    assert model.vit.longest_sequence == model.vit.sequence_length + 3
