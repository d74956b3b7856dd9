"""A whole ViT with the MLP's own products, switched on by the setting, against the library's."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from fastlift.models.compile import compile_backbone
from fastlift.models.create import create_model
from fastlift.models.fused import FusedSettings
from fastlift.models.lift import LiftModel
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

pytest.importorskip("triton")

NAMES = ["red star", "blue disc", "green ring"]


@pytest.fixture(scope="module")
def plain() -> LiftModel:
    model = create_model("timm:test_vit", class_names=NAMES, rank=2, pretrained="random", init="random", image_size=64)
    model.set_compute_dtype(torch.bfloat16)
    return model


def own(plain: LiftModel) -> LiftModel:
    model = copy.deepcopy(plain)
    assert FusedSettings(("mlp",)).build(model.vit) == []
    return model


def losses_of(model: LiftModel, sizes: tuple[int, ...]) -> list[float]:
    """Of steps on batches of these sizes."""
    learner = Learner(model, losses.build("LA", torch.tensor([5, 3, 2])), OptimizerSettings(lr=0.05))
    draw, side, told = torch.Generator().manual_seed(0), model.preprocessing.image_size, []
    for size in sizes:
        images = torch.randn(size, 3, side, side, generator=draw).to(model.vit.compute_dtype)
        learner.sums.loss.zero_()
        learner.sums.images = 0
        learner.step(images, torch.arange(size) % 3)
        told.append(learner.sums.read()[0])
    return told


def test_losses_are_those_of_the_library(plain: LiftModel, launched: list[str]) -> None:
    """As near to those in float32 as the library's in bfloat16 are."""
    exact = copy.deepcopy(plain)
    exact.set_compute_dtype(torch.float32)
    sizes = (2, 2)
    found, expected, library = (losses_of(model, sizes) for model in (own(plain), exact, copy.deepcopy(plain)))
    eager = (torch.tensor(library) - torch.tensor(expected)).abs().max()
    assert (torch.tensor(found) - torch.tensor(expected)).abs().max() <= 2 * eager
    depth = plain.vit.depth
    assert launched.count("mlp_in_kernel") == launched.count("mlp_out_kernel") == 2 * depth
    assert launched.count("mlp_gradient_kernel") == 2 * (depth - 1)  # nothing below the first block's MLP learns


def test_one_graph_and_no_recompilation(plain: LiftModel, launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as always, then run op by op."""
    compile_module = torch.nn.Module.compile

    def quick(self: torch.nn.Module, *, mode: str, **options: object) -> None:
        compile_module(self, backend="aot_eager", **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    torch._dynamo.reset()
    counters.clear()
    eager, model = own(plain), own(plain)
    compile_backbone(model, "default", {2})
    sizes = (2, 1)
    torch.testing.assert_close(losses_of(model, sizes), losses_of(eager, sizes), rtol=1e-2, atol=0)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert launched.count("mlp_gradient_kernel") == 2 * 2 * (plain.vit.depth - 1)
