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
from fastlift.system import sealed

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


def clip_model(tiny_clip: Files) -> nn.Module:
    """transformers' CLIP of both towers, whose vision tower has the tiny CLIP's weights."""
    from interop.adapters.models import clip_both

    vision: Any = transformers_vision(tiny_clip)
    transformers: Any = pytest.importorskip("transformers")
    config: Any = clip_both().config  # type: ignore[assignment]
    sizes = {"text_config": config.text_config.to_dict(), "vision_config": vision.config.to_dict()}
    model = transformers.CLIPModel(transformers.CLIPConfig(**sizes, projection_dim=24)).eval()
    whole = dict(model.state_dict())
    for name, value in vision.state_dict().items():
        name = name.removeprefix("vision_model.")
        assert whole[f"vision_model.{name}"].shape == value.shape
        whole[f"vision_model.{name}"] = value
    model.load_state_dict(whole)
    return model


@pytest.mark.parametrize("tuner", ["lora", "lora_mlp"])
def test_through_peft_in_a_clip_of_both_towers(tiny_clip: Files, tmp_path: Path, tuner: Any) -> None:
    peft = pytest.importorskip("peft")
    run = trained_model(tiny_clip, tuner, layers=(0, 2))
    save_run_adapters(run, tmp_path, peft="CLIPModel")
    model: Any = clip_model(tiny_clip)
    texts = {"input_ids": torch.tensor([[1, 5, 2]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    text = model.text_model(**texts).pooler_output
    with pytest.raises(AssertionError):
        close(model.vision_model, run)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path)
    close(wrapped.base_model.model.vision_model, run)
    assert torch.equal(wrapped.base_model.model.text_model(**texts).pooler_output, text), "only the vision tower's"
    names, classifier = fastlift.load_classifier(tmp_path)
    vectors = wrapped.base_model.model.vision_model(images()).pooler_output
    torch.testing.assert_close(classifier(vectors), run(images()), rtol=1e-4, atol=1e-3)
    assert names == run.class_names


def same_logits(model: nn.Module, run: LiftModel, folder: Path) -> None:
    """Features of another library's model and the classifier of the folder give the run's logits."""
    before = torch.get_rng_state()
    names, classifier = fastlift.load_classifier(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert names == run.class_names
    with torch.no_grad():
        got, wanted = classifier(model.eval()(images())), run(images())
    assert wanted.std() > 0.05
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"classifier": "cosine", "scale": 40.0},
        {"classifier": "linear"},
        {"classifier": "layernorm"},
        {"classifier": "text", "text_tuner": ("coop", "clip_adapter", "projection")},
    ],
    ids=lambda options: options["classifier"],
)
def test_the_classifier_of_a_run_in_open_clip(tiny_clip: Files, tmp_path: Path, options: Any) -> None:
    run = trained_model(tiny_clip, "adaptformer", **options)
    save_run_adapters(run, tmp_path)
    visual = open_clip_visual(tiny_clip)
    fastlift.load_adapters(visual, tmp_path)
    same_logits(visual, run, tmp_path)


def test_the_classifier_of_a_run_in_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plain = timm_run(tmp_path, monkeypatch, "lora")
    save_run_adapters(run, tmp_path / "a")
    fastlift.load_adapters(plain, tmp_path / "a")
    same_logits(plain, run, tmp_path / "a")


def test_classifiers_that_are_not_the_adapters_own(tiny_clip: Files, tmp_path: Path) -> None:
    """A kill between the two files, or others' adapters in the folder, must not pair what was not trained together."""
    save_run_adapters(trained_model(tiny_clip, "adaptformer"), tmp_path)
    visual = open_clip_visual(tiny_clip)
    fastlift.load_adapters(visual, tmp_path)
    fastlift.load_classifier(tmp_path)
    with torch.no_grad():
        next(iter(fastlift.tuner_parameters(visual).values())).add_(1)
    fastlift.save_adapters(visual, tmp_path)
    with pytest.raises(fastlift.UserError, match="was trained with other adapters than those beside it"):
        fastlift.load_classifier(tmp_path)
    file = tmp_path / "classifier.safetensors"
    state, texts = sealed.read(file)
    described = json.loads(texts["description"]) | {"adapters": ""}
    (tmp_path / "adapters.safetensors").unlink()
    first, rest = state["weight"][:1], state["weight"][1:]
    for change, tensors, message in (
        ({}, state, ""),
        ({"classifier": "euclid"}, state, r"no classifier that is known here \(cosine, linear"),
        ({"classifier": "linear"}, state, "does not fit its description"),
        ({"class_names": ["one"]}, state, f"names 1 classes and has weights of {len(CLASS_NAMES)}"),
        ({"scale": "25"}, state, "no description of a classifier"),
        ({}, {"weight": torch.cat([torch.nan * first, rest])}, "weight holds numbers that are not finite"),
    ):
        sealed.write(file, tensors, {"description": json.dumps(described | change)})
        if message:
            with pytest.raises(fastlift.UserError, match=message):
                fastlift.load_classifier(tmp_path)
        else:
            fastlift.load_classifier(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(fastlift.UserError, match=r"classifier\.safetensors is damaged"):
        fastlift.load_classifier(tmp_path)
    file.unlink()
    with pytest.raises(fastlift.UserError, match=r"holds no classifier .*fastlift adapters RUN --to FOLDER writes one"):
        fastlift.load_classifier(tmp_path)


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
    told = capsys.readouterr().out
    assert "adapters.safetensors" in told
    assert f"names, classifier = fastlift.load_classifier('{out}'); {len(CLASS_NAMES)} classes" in told
    visual = open_clip_visual(tiny_clip)
    fastlift.load_adapters(visual, out)
    close(visual, fastlift.load_run(run))
    same_logits(visual, fastlift.load_run(run), out)
    with pytest.raises(fastlift.UserError, match="exists already; use --overwrite"):
        command.run([str(run), "--to", str(out)])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "classifier.safetensors").write_text("somebody's own")
    with pytest.raises(fastlift.UserError, match=r"mine/classifier\.safetensors exists already; use --overwrite"):
        command.run([str(run), "--to", str(tmp_path / "mine")])
    assert command.run([str(run), "--to", str(out), "--overwrite"]) == 0
    assert command.run([str(run), "--to", str(out), "--peft", "CLIPModel", "--overwrite"]) == 0
    assert (out / "adapter_model.safetensors").is_file()
    with pytest.raises(fastlift.UserError, match="name the folder to write"):
        command.run([str(run)])
