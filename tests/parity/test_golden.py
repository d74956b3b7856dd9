"""The numbers that the authors' own programs computed, reproduced through the public face.

They need the small CLIP of the reference data, which is too large for the repository.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import SHARED
from safetensors import safe_open
from torch import Tensor

import fastlift
from fastlift.models.lift import LiftModel

LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
# Every case that is there but zero-shot; the file's metadata says what it is.
CASES = sorted(
    path.stem for path in (SHARED / "golden").glob("*.safetensors") if path.stem not in ("clip", "zero_shot")
)
TUNERS = {
    "adaptformer": "adaptformer",
    "adapter": "adapter",
    "lora": "lora",
    "lora_mlp": "lora_mlp",
    "bias_tuning": "bias",
    "ln_tuning": "layernorm",
    "ssf_attn": "ssf_attn",
    "ssf_mlp": "ssf_mlp",
    "ssf_ln": "ssf_ln",
    "vpt_shallow": "vpt_shallow",
    "vpt_deep": "vpt_deep",
    "mask": "mask",
    "full_tuning": "full",
}
CLASSIFIERS = {
    "CosineClassifier": "cosine",
    "LinearClassifier": "linear",
    "L2NormedClassifier": "l2",
    "LayerNormedClassifier": "layernorm",
}


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    return tensors, json.loads(metadata.get("case") or metadata["config"])


def open_clip_config(shape: dict[str, Any]) -> dict[str, Any]:
    vision = {name: shape[name] for name in ("image_size", "layers", "width", "head_width", "patch_size")}
    text = {name: shape[name] for name in ("context_length", "vocab_size")}
    text |= {"width": shape["text_width"], "heads": shape["text_heads"], "layers": shape["text_layers"]}
    return {"embed_dim": shape["embed_dim"], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def build(golden: Path, case: dict[str, Any], **settings: Any) -> LiftModel:
    _, shape = load(golden / "clip.safetensors")
    return fastlift.create_model(
        open_clip_config(shape),
        pretrained=golden / "clip.safetensors",
        class_names=case["class_names"],
        prompt=case["template"],
        **settings,
    )


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden"


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("name", CASES)
def test_three_steps_of_training(golden: Path, name: str) -> None:
    tensors, case = load(golden / f"{name}.safetensors")
    tuner = tuple(ours for theirs, ours in TUNERS.items() if case.get(theirs)) or "none"
    classifier = CLASSIFIERS.get(case.get("classifier", ""), "cosine")
    settings = {"rank": 4, "prompt_length": 5, "mask_ratio": 0.01, "layers": case.get("partial")}
    model = build(golden, case, tuner=tuner, classifier=classifier, **settings)
    start = {"tuner": part(tensors, "start.tuner."), "head": part(tensors, "start.head.")}
    torch.testing.assert_close(model.classifier.weight.detach(), start["head"]["weight"], rtol=1e-5, atol=1e-6)
    fastlift.compat.load_lift_checkpoint(model, start)

    images, labels = tensors["image"], tensors["label"]
    torch.testing.assert_close(model(images).detach(), tensors["logits"], rtol=1e-5, atol=1e-5)

    loss = fastlift.losses.build(case["loss"], tensors["class_counts"])
    trained = model.trained()
    optimizer = torch.optim.SGD(trained.values(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for step, expected in enumerate(tensors["losses"]):
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=0)
        if step == 0:
            expect_close({k: p.grad for k, p in trained.items() if p.grad is not None}, part(tensors, "grad."))
        optimizer.step()
    ended = fastlift.compat.lift_state(model)
    flat = {f"{side}.{key}": tensor for side, state in ended.items() for key, tensor in state.items()}
    expect_close(flat, part(tensors, "end."))


def expect_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names, and values within 1e-4 of each tensor's size."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().amax()) if tensor.numel() else 0.0  # a mask may choose nothing of a bias
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("micro_batch", [None, 4, 3])
def test_the_learner_takes_the_same_steps(golden: Path, micro_batch: int | None) -> None:
    """The trainer's fused way from features to the loss gives the golden losses too, however the batch is cut."""
    from fastlift.training.optimizers import OptimizerSettings
    from fastlift.training.step import Learner

    tensors, case = load(golden / "adaptformer.safetensors")
    model = build(golden, case, rank=4)
    start = {"tuner": part(tensors, "start.tuner."), "head": part(tensors, "start.head.")}
    fastlift.compat.load_lift_checkpoint(model, start)
    loss = fastlift.losses.build("LA", tensors["class_counts"])
    learner = Learner(model, loss, OptimizerSettings(lr=LR), micro_batch=micro_batch)
    for expected in tensors["losses"]:
        learner.sums.restart()
        learner.step(tensors["image"], tensors["label"])
        assert learner.sums.read()[0] == pytest.approx(float(expected), rel=1e-5)


def test_zero_shot(golden: Path) -> None:
    tensors, case = load(golden / "zero_shot.safetensors")
    model = build(golden, case, tuner="none", classifier="zero_shot")
    torch.testing.assert_close(model.classifier.weight, tensors["text_features"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(tensors["image"]), tensors["logits"], rtol=1e-5, atol=1e-5)
    assert not model.trained()
