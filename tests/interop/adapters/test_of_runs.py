"""A run's tuner elsewhere: the same features on the same backbone in open_clip, timm and transformers, and through PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from fixtures import CLASS_NAMES, Files, tiny_recipe
from interop.export.test_serving import trained_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fastlift
from fastlift.commands import adapters as command
from fastlift.interop.adapters.attach import DropIn
from fastlift.interop.adapters.of_runs import save_run_adapters
from fastlift.models.lift import LiftModel

TUNERS = get_args(DropIn)
TIMM = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0}


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def features(model: LiftModel) -> Tensor:
    return model.features(images())


@torch.no_grad()
def close(model: nn.Module, run: LiftModel) -> None:
    """The class token's features behind the last norm."""
    got: Any = model.eval()(images())
    got = got if isinstance(got, Tensor) else got.pooler_output
    torch.testing.assert_close(got, features(run), rtol=1e-4, atol=1e-4)


def open_clip_visual(tiny_clip: Files) -> nn.Module:
    from open_clip.model import CLIP

    model = CLIP(**json.loads(tiny_clip[0].read_text()))
    model.load_state_dict(load_file(tiny_clip[1]))
    model.visual.proj = None
    return model.visual


def transformers_vision(tiny_clip: Files) -> nn.Module:
    """The tiny CLIP's weights by transformers' names."""
    transformers = pytest.importorskip("transformers")
    theirs = {name: value for name, value in load_file(tiny_clip[1]).items() if name.startswith("visual.")}
    config = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3, image_size=32, patch_size=8
    )
    model = transformers.CLIPVisionModel(config)
    at = {name.removeprefix("visual."): value for name, value in theirs.items()}
    state = {
        "embeddings.class_embedding": at["class_embedding"],
        "embeddings.patch_embedding.weight": at["conv1.weight"],
        "embeddings.position_embedding.weight": at["positional_embedding"],
    }
    norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
    for i in range(3):
        here, there = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        norms |= {f"{here}.layer_norm{n}": f"{there}.ln_{n}" for n in (1, 2)}
        norms |= {f"{here}.mlp.fc1": f"{there}.mlp.c_fc", f"{here}.mlp.fc2": f"{there}.mlp.c_proj"}
        norms |= {f"{here}.self_attn.out_proj": f"{there}.attn.out_proj"}
        for kind in ("weight", "bias"):
            parts = at[f"{there}.attn.in_proj_{kind}"].chunk(3)
            state |= {f"{here}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", parts, strict=True)}
    state |= {f"{mine}.{kind}": at[f"{other}.{kind}"] for mine, other in norms.items() for kind in ("weight", "bias")}
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    missing, unexpected = model.load_state_dict({prefix + name: value for name, value in state.items()}, strict=False)
    assert not unexpected
    assert not [name for name in missing if "position_ids" not in name]
    return model


@pytest.mark.parametrize("tuner", TUNERS)
def test_in_open_clip_and_transformers(tiny_clip: Files, tmp_path: Path, tuner: Any) -> None:
    assert json.loads(tiny_clip[0].read_text())["quick_gelu"]  # transformers' default for CLIP, too
    run = trained_model(tiny_clip, tuner, layers=(0, 2))
    assert save_run_adapters(run, tmp_path) == tmp_path
    for model in (open_clip_visual(tiny_clip), transformers_vision(tiny_clip)):
        fastlift.load_adapters(model, tmp_path)
        close(model, run)
        fastlift.remove_adapters(model)
        with pytest.raises(AssertionError):
            close(model, run)


def timm_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuner: Any) -> tuple[LiftModel, nn.Module]:
    """A run on a small timm ViT, and that ViT as timm makes it."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **options | SMALL))
    torch.manual_seed(0)
    plain = timm.create_model(TIMM)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    options: dict[str, Any] = {"rank": 4} if tuner in ("adaptformer", "adapter", "lora", "lora_mlp") else {}
    weights = {"pretrained": tmp_path / "w.safetensors", "init": "random", "image_size": 32}
    run = fastlift.create_model(f"timm:{TIMM}", class_names=CLASS_NAMES, tuner=tuner, **weights, **options)
    with torch.no_grad():
        for parameter in run.tuner_parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return run, plain


@pytest.mark.parametrize("tuner", TUNERS)
def test_in_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuner: Any) -> None:
    run, plain = timm_run(tmp_path, monkeypatch, tuner)
    save_run_adapters(run, tmp_path / "adapters", base=TIMM)
    fastlift.load_adapters(plain, tmp_path / "adapters")
    close(plain, run)
    torch.manual_seed(1)
    with pytest.raises(fastlift.UserError, match=f"trained on {TIMM}; .* other weights"):
        fastlift.load_adapters(timm.create_model(TIMM), tmp_path / "adapters")


@pytest.mark.parametrize("tuner", ["lora", "lora_mlp"])
def test_through_peft(tiny_clip: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuner: Any) -> None:
    peft = pytest.importorskip("peft")
    run, plain = timm_run(tmp_path, monkeypatch, tuner)
    save_run_adapters(run, tmp_path / "timm", peft="timm")
    close(peft.PeftModel.from_pretrained(plain, tmp_path / "timm"), run)
    run = trained_model(tiny_clip, tuner, layers=(1, 2))
    save_run_adapters(run, tmp_path / "clip", peft="CLIPVisionModel")
    wrapped = peft.PeftModel.from_pretrained(transformers_vision(tiny_clip), tmp_path / "clip")
    close(wrapped, run)
    close(wrapped.merge_and_unload(), run)


@pytest.mark.parametrize("tuner", ["lora", "lora_mlp"])
def test_adapters_in_a_model_leave_for_peft(tmp_path: Path, tuner: Any) -> None:
    from interop.adapters.models import build, output, randomise
    from interop.adapters.models import images as small_images

    peft = pytest.importorskip("peft")
    for name in ("timm", "dinov3", "perception_encoder"):
        model = build(name)
        randomise(fastlift.add_adapters(model, tuner, rank=3, layers=2))
        wanted = output(model, small_images()).detach()
        fastlift.save_adapters(model, tmp_path / name, format="peft")
        wrapped = peft.PeftModel.from_pretrained(build(name), tmp_path / name)
        torch.testing.assert_close(output(wrapped, small_images()), wanted, rtol=1e-4, atol=1e-4)
    model = build("open_clip")
    fastlift.add_adapters(model, "lora", rank=3)
    with pytest.raises(fastlift.UserError, match="takes weights and does not call its products"):
        fastlift.save_adapters(model, tmp_path / "no", format="peft")


def test_what_cannot_leave_says_why(tiny_clip: Files, tmp_path: Path) -> None:
    cases: list[tuple[Any, Any, str]] = [
        (("lora", "ssf_ln"), None, "trained lora, ssf_ln together; an adapter folder holds one tuner of adaptformer"),
        ("none", None, "trained nothing inside its backbone"),
        ("mask", None, "tuner mask cannot leave as adapters: it replaces entries"),
        ("adaptformer", "timm", "PEFT knows no adaptformer as LIFT has it"),
        (
            "lora",
            "ClipModel",
            r"model for peft 'ClipModel'; did you mean CLIPModel or .*\(known: timm, CLIPModel, CLIPV",
        ),
    ]
    for tuner, peft, message in cases:
        with pytest.raises(fastlift.UserError, match=message):
            save_run_adapters(trained_model(tiny_clip, tuner), tmp_path / "out", peft=peft)
    assert not (tmp_path / "out").exists()


def test_command(tiny_clip: Files, tiny_data: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = tiny_recipe(tiny_clip, tiny_data, epochs=1, tuner=("lora",), rank=2, amp="fp32")
    run, out = fastlift.train(recipe, output=tmp_path / "run").folder, tmp_path / "out"
    assert command.run([str(run), "--to", str(out)]) == 0
    assert "adapters.safetensors" in capsys.readouterr().out
    visual = open_clip_visual(tiny_clip)
    fastlift.load_adapters(visual, out)
    close(visual, fastlift.load_run(run))
    with pytest.raises(fastlift.UserError, match="exists already; use --overwrite"):
        command.run([str(run), "--to", str(out)])
    assert command.run([str(run), "--to", str(out), "--overwrite"]) == 0
    assert command.run([str(run), "--to", str(out), "--peft", "CLIPModel"]) == 0
    assert (out / "adapter_model.safetensors").is_file()
    with pytest.raises(fastlift.UserError, match="name the folder to write"):
        command.run([str(run)])
