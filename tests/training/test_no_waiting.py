"""The host never waits for a GPU inside a step or a batch of evaluation, and nothing lies on another device."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import GPU, fake_gpu
from fixtures import CLASS_COUNTS, CLASS_NAMES, TINY_CONFIG, Files, tiny_batch, tiny_learner
from syncs import no_host_sync, repeatable_sums
from torch import Tensor

import fastlift
from fastlift.errors import FastliftWarning
from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.evaluate import Groups, add_batch
from fastlift.evaluation.per_image import PerImageRecorder
from fastlift.models.tuners import TUNERS
from fastlift.training.finite import Watch
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner, Sums

LOSSES = ("CE", "Focal", "LDAM", "CB", "GRW", "BS", "LA", "LADE")
CLASSIFIERS = ("cosine", "linear", "l2", "layernorm", "text")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TEXT = {"text_tuner": ["coop", "clip_adapter", "projection", "lora"]}


@pytest.fixture(autouse=True)
def _labels_are_looked_at_on_cpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlift_kernels.cosine_ce import op

    monkeypatch.setattr(op, "check_labels", lambda labels, classes: None)


@contextmanager
def never_waiting(device: torch.device) -> Iterator[None]:
    """By the ops that are dispatched; on a GPU torch itself is told to refuse as well."""
    with no_host_sync():
        if device.type == "cpu":
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def step(some: Learner, device: torch.device) -> None:
    """A first step, in which libraries start and kernels are compiled, and one that is watched."""
    images, labels = tiny_batch(some)
    some.step(images, labels)
    with never_waiting(device):
        some.step(images, labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step(tiny_clip: Files, device: torch.device, loss: str, dtype: torch.dtype) -> None:
    """In fp16 with its gradient scaler, and in parts."""
    step(tiny_learner(tiny_clip, device, loss, dtype, micro_batch=3), device)


@pytest.mark.parametrize("mode", ["stop", "skip"])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_step_of_every_classifier(tiny_clip: Files, device: torch.device, classifier: str, mode: Any) -> None:
    model = {"classifier": classifier} | (TEXT if classifier == "text" else {})
    step(tiny_learner(tiny_clip, device, dtype=torch.bfloat16, model=model, on_nonfinite=mode), device)


@pytest.mark.parametrize("tuner", sorted(set(TUNERS) - {"none"}))
def test_a_step_of_every_tuner(tiny_clip: Files, device: torch.device, tuner: str) -> None:
    step(tiny_learner(tiny_clip, device, model={"tuner": tuner}), device)


@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_a_step_with_activation_checkpointing(tiny_clip: Files, device: torch.device, recompute: Any) -> None:
    some = tiny_learner(tiny_clip, device)
    some.model.vit.activation_checkpointing = recompute
    step(some, device)


@pytest.mark.parametrize("crops", [1, 5])
@pytest.mark.parametrize("classifier", [*CLASSIFIERS, "zero_shot"])
def test_a_batch_of_evaluation(tiny_clip: Files, device: torch.device, classifier: Any, crops: int) -> None:
    """Of classes, and of groups of classes."""
    tuner = {"tuner": "none"} if classifier == "zero_shot" else {}
    model = fastlift.create_model(
        tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, classifier=classifier, **tuner
    ).to(device)
    images = torch.randn(4, *([] if crops == 1 else [crops]), 3, 32, 32).to(device)
    labels = torch.arange(4, device=device)
    rows, groups = torch.arange(4), Groups(np.array([0, 0, 1, 1, 2, 2]), 3, device)
    accumulators = ClassificationAccumulator(len(CLASS_NAMES), device), ClassificationAccumulator(3, device)
    with torch.inference_mode():
        for watched in (False, True):
            with never_waiting(device) if watched else repeatable_sums():
                add_batch(accumulators[0], PerImageRecorder(4), model, images, labels, rows, None)
                add_batch(accumulators[1], PerImageRecorder(4), model, images, labels, rows, groups)
    assert [int(accumulator.state()["total"].sum()) for accumulator in accumulators] == [8, 8]


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_repeat_on_a_gpu(tiny_clip: Files, loss: str) -> None:
    some = tiny_learner(tiny_clip, "cpu", loss)
    with repeatable_sums():
        some.step(*tiny_batch(some))


# The same on a GPU that is not there


@pytest.mark.parametrize(
    ("loss", "model"),
    [
        *((loss, {}) for loss in LOSSES),
        *(("LA", {"classifier": name} | (TEXT if name == "text" else {})) for name in CLASSIFIERS),
        *(("LA", {"tuner": name}) for name in sorted(set(TUNERS) - {"none"})),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_lies_on_the_gpu(
    tiny_clip: Files, monkeypatch: pytest.MonkeyPatch, loss: str, model: dict[str, Any], dtype: torch.dtype
) -> None:
    made = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, **model)
    made.set_compute_dtype(dtype)
    built = fastlift.losses.build(loss, CLASS_COUNTS)
    with fake_gpu(monkeypatch) as gpu:
        some = Learner(gpu.module(made), gpu.module(built), OptimizerSettings(lr=0.1), micro_batch=4)
        some.step(torch.empty(8, 3, 32, 32, device=GPU, dtype=dtype), torch.empty(8, dtype=torch.int64, device=GPU))
        state = [*some.parameters.values(), *(p.grad for p in some.parameters.values() if p.grad is not None)]
        state += [
            *some.kept().values(),
            some.sums.loss,
            some.sums.correct,
            some.watch.first,
            some.watch.skipped,
        ]
        assert {tensor.device for tensor in state} == {GPU}
        with torch.inference_mode():
            accumulator = ClassificationAccumulator(len(CLASS_NAMES), GPU)
            add_batch(
                accumulator,
                PerImageRecorder(2),
                made,
                torch.empty(2, 5, 3, 32, 32, device=GPU),
                torch.empty(2, dtype=torch.int64, device=GPU),
                torch.arange(2),
                None,
            )


@pytest.mark.parametrize("tuner", ["full", "bias", "batchnorm", "ssf"])
def test_of_a_resnet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuner: str) -> None:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastliftWarning)
        made = fastlift.create_model(
            TINY_CONFIG | {"vision_cfg": vision}, class_names=CLASS_NAMES, tuner=tuner, init="random"
        )
    loss = fastlift.losses.build("LA", CLASS_COUNTS)
    with fake_gpu(monkeypatch) as gpu:
        some = Learner(gpu.module(made), gpu.module(loss), OptimizerSettings(lr=0.1))
        some.step(torch.empty(4, 3, 64, 64, device=GPU), torch.empty(4, dtype=torch.int64, device=GPU))
        assert {parameter.grad.device for parameter in some.parameters.values() if parameter.grad is not None} == {GPU}


@pytest.mark.parametrize("tuner", ["adaptformer", "adapter"])
def test_of_other_libraries_models_too(monkeypatch: pytest.MonkeyPatch, tuner: Any) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)
    fastlift.add_adapters(model, tuner, rank=4)
    loss = fastlift.FusedCosineLoss(192, CLASS_COUNTS, "LADE")
    with fake_gpu(monkeypatch) as gpu:
        features = gpu.module(model)(torch.empty(4, 3, 32, 32, device=GPU))
        value, predictions = gpu.module(loss).loss_and_predictions(
            features, torch.empty(4, dtype=torch.int64, device=GPU)
        )
        assert (value.device, predictions.device, loss.logits(features).device) == (GPU, GPU, GPU)


# What the helpers of this file see


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.bincount(x.long().abs()),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.equal(x, x),
        lambda x: x.index_put_((x > 0,), torch.zeros(())),
        lambda x: _Reads.apply(x.clone().requires_grad_()).sum().backward(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inference", [False, True])
def test_what_waits_is_seen(waits: Any, inference: bool) -> None:
    with torch.inference_mode(inference):
        x = torch.randn(5)
        with pytest.raises((AssertionError, RuntimeError), match=r"device|host|does not require grad"), no_host_sync():
            waits(x)


class _Reads(torch.autograd.Function):
    """Reads a value back, in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * gradients[0].max().item()


def test_sums_without_an_order_are_seen() -> None:
    x, rows = torch.randn(5), torch.tensor([0, 1, 0, 1, 0])
    for add in (lambda: torch.zeros(2).index_add_(0, rows, x), lambda: torch.zeros(2).scatter_add(0, rows, x)):
        with pytest.raises(AssertionError, match="in the order in which threads come by"), repeatable_sums():
            add()
    with repeatable_sums():
        torch.zeros(2, dtype=torch.int64).index_add_(0, rows, rows)


def test_a_fake_gpu_meets_no_tensor_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch):
        x = torch.ones(3, device=GPU)
        assert (x * 2).device == GPU
        with pytest.raises(Exception, match=r"two (different )?devices"):
            x + torch.ones(3)
        with pytest.raises(Exception, match=r"(?i)data.?dependent|item|_local_scalar_dense"):
            float(x.sum())
        with pytest.raises(Exception, match=r"."):
            x.tolist()


def test_registers_and_sums_wait_only_when_they_are_read(device: torch.device) -> None:
    sums, watch = Sums.zeros(device), Watch(device, "stop")
    loss = torch.ones((), device=device)
    gradients = [torch.ones(3, device=device)]
    with never_waiting(device):
        good = watch.look(loss, gradients).good
        sums.add(loss, torch.ones((), dtype=torch.int64, device=device), 4, good)
        watch.guard(loss)
    sums.images = 4  # who takes a step counts them
    assert sums.read() == (1.0, 25.0)
    with pytest.raises(AssertionError), no_host_sync():
        watch.first_step()
