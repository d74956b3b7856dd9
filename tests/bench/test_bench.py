"""The benchmarks compare like with like: the reference path takes the same steps, and costs what plain PyTorch costs."""

import copy

import pytest
import torch
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files

import fastlift
from fastlift.bench import text, train
from fastlift.bench.reference import ReferenceLearner
from fastlift.bench.reference import features as reference_features
from fastlift.bench.rounds import alternate, count_flop, count_ops
from fastlift.engine.memory import saved_bytes
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner


def test_reference_path_takes_the_same_steps(tiny_clip: Files, device: torch.device) -> None:
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=4).to(device)
    twin = copy.deepcopy(model)
    images, labels = torch.randn(5, 3, 32, 32).to(device), torch.arange(5, device=device)
    torch.testing.assert_close(reference_features(twin, images), model.features(images), rtol=1e-4, atol=1e-5)
    loss = losses.build("LA", CLASS_COUNTS).to(device)
    assert isinstance(loss, losses.SoftmaxLoss)
    fast, plain = Learner(model, loss, OptimizerSettings(lr=0.05)), ReferenceLearner(twin, loss, lr=0.05)
    for step in range(1, 6):
        fast.step(images, labels)
        plain.step(images, labels)
        assert fast.sums.read()[0] == pytest.approx(sum(plain.losses) / step, rel=1e-5)
    for name, parameter in fast.parameters.items():
        torch.testing.assert_close(plain.parameters[name], parameter, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_the_reference_path_in_half_precision(
    tiny_clip: Files, device: torch.device, dtype: torch.dtype
) -> None:
    """Frozen weights are cast once here, in every step there: both features are near those in fp32."""
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=4)
    with torch.no_grad():
        for parameter in model.tuner_parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model, plain = model.to(device), copy.deepcopy(model).to(device)
    images = torch.randn(5, 3, 32, 32).to(device)
    exact = reference_features(plain, images)
    model.set_compute_dtype(dtype)
    for vit in (model.vit, plain.vit):
        vit.compute_dtype = dtype
    ours = model.features(images.to(dtype))
    assert ours.dtype is dtype
    for found in (ours, reference_features(plain, images.to(dtype))):
        assert (found.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
def test_a_benchmark_of_training(tiny_clip: Files, recompute: str) -> None:
    bench = train.run(str(tiny_clip[0]), batch=4, rank=4, classes=12, rounds=2, recompute=recompute, loss_steps=3)
    fast, plain = bench.rows["fastlift"], bench.rows["reference"]
    assert bench.loss_difference < 1e-5
    assert fast.saved_mib_per_image < plain.saved_mib_per_image
    assert fast.ops_per_step < plain.ops_per_step or recompute != "none"
    assert len(fast.rounds_ms) == 2
    if recompute == "none":
        assert fast.gflop_per_image < plain.gflop_per_image
    bench.render()
    assert bench.to_dict()["rows"]["fastlift"]["ops_per_step"] == fast.ops_per_step


def test_a_benchmark_of_text(tiny_clip: Files) -> None:
    bench = text.run(str(tiny_clip[0]), class_names=list(CLASS_NAMES), rounds=1)
    assert bench.largest_difference < 1e-5
    assert bench.to_dict()["classes"] == 6


def test_counting() -> None:
    x, weight = torch.randn(3, 8), torch.randn(5, 8)

    def product() -> None:
        torch.nn.functional.linear(x, weight)

    assert count_flop(product) == 2 * 3 * 5 * 8
    assert count_ops(product) >= 1
    kept = torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: (kept * 2).sigmoid(), {kept.untyped_storage().data_ptr()}) == 400
    assert [len(timing.seconds) for timing in alternate({"a": product, "b": product}, rounds=3).values()] == [3, 3]
