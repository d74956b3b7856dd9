"""Adapted models in the company they will keep: compile, copies, pickles, checkpointing, autocast, DDP, accumulation."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.adapters.models import MODELS, assert_copies_stand_alone, build, images, output, randomise
from torch import nn

import fastlift

SMALL = ["open_clip", "timm_scaled", "clip_vision", "vit_classifier"]


def adapted(name: str) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    model = build(name)
    trained = fastlift.add_adapters(model, rank=4)
    randomise(trained)
    return model, trained


def gradients(model: nn.Module, trained: dict[str, nn.Parameter], x: torch.Tensor) -> dict[str, torch.Tensor]:
    for parameter in trained.values():
        parameter.grad = None
    output(model, x).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in trained.items()}


def assert_close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()))


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_pickles_compute_the_same_on_their_own_weights(name: str) -> None:
    model, trained = adapted(name)
    assert_copies_stand_alone(model)
    assert sorted(trained) == sorted(fastlift.tuner_parameters(model))


@pytest.mark.parametrize("name", SMALL)
def test_one_graph_under_compile(name: str) -> None:
    model, trained = adapted(name)
    wanted, eager = output(model, images()), gradients(model, trained, images())
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: output(model, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images()), wanted, rtol=1e-5, atol=1e-5)
    for parameter in trained.values():
        parameter.grad = None
    compiled(images()).square().mean().backward()
    assert_close({key: parameter.grad for key, parameter in trained.items()}, eager)


@pytest.mark.parametrize("name", MODELS)
def test_exported_graph(name: str) -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, _ = adapted(name)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return output(self.model, x)

    module = Outputs().eval()
    exported = torch.export.export(module, (images(),)).module()
    torch.testing.assert_close(exported(images()), module(images()), rtol=1e-5, atol=1e-5)


def test_inductor() -> None:
    model, trained = adapted("timm")
    eager = gradients(model, trained, images())
    torch._dynamo.reset()
    assert_close(gradients(torch.compile(model, fullgraph=True), trained, images()), eager)


def test_gradient_checkpointing() -> None:
    def timm_on(model: Any) -> None:
        model.set_grad_checkpointing(True)

    def open_clip_on(model: Any) -> None:
        model.visual.set_grad_checkpointing(True)

    def transformers_on(model: Any) -> None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    for name, turn_on in (("timm", timm_on), ("open_clip", open_clip_on), ("clip_vision", transformers_on)):
        model, trained = adapted(name)
        model.train()
        wanted = gradients(model, trained, images())
        turn_on(model)
        calls: list[int] = []
        block = model.get_submodule(f"{MODELS[name][1]}.1")
        block.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        assert_close(gradients(model, trained, images()), wanted)
        assert len(calls) == 2, "the block was not computed again in backward"


def test_autocast_and_bf16_weights() -> None:
    model, trained = adapted("timm")
    wanted = output(model, images())
    with torch.autocast("cpu", torch.bfloat16):
        got = output(model, images())
        got.float().square().mean().backward()
    torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=0.1)
    assert all(parameter.grad.dtype == torch.float32 for parameter in trained.values())
    half = build("timm").to(torch.bfloat16)
    trained = fastlift.add_adapters(half, rank=4)
    randomise(trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    torch.testing.assert_close(output(half, images().bfloat16()).float(), wanted, rtol=0.2, atol=0.2)


def test_accumulation_is_the_whole_batch() -> None:
    model, trained = adapted("timm")
    x = images(4)
    whole = gradients(model, trained, x)
    for parameter in trained.values():
        parameter.grad = None
    for part in x.chunk(2):
        (output(model, part).square().mean() / 2).backward()
    assert_close({name: parameter.grad for name, parameter in trained.items()}, whole)


def test_moving_average_of_weights() -> None:
    model, trained = adapted("timm")
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(1.0)
    average.update_parameters(model)
    for name, parameter in fastlift.tuner_parameters(average).items():
        torch.testing.assert_close(parameter, before[name] + 0.5)


COUNTS = [60, 20, 7, 2, 1]


def head_batch(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    return features[rows], torch.tensor([0, 3, 4, 1])[rows]


def _replica(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model, trained = adapted("timm")
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped(images(4)[2 * rank : 2 * rank + 2]).square().mean().backward()
    torch.save({name: parameter.grad for name, parameter in trained.items()}, os.path.join(folder, f"{rank}.pt"))
    assert sorted(fastlift.tuner_parameters(wrapped)) == sorted(trained)
    head = nn.parallel.DistributedDataParallel(fastlift.FusedCosineLoss(5, COUNTS))
    head(*head_batch(slice(2 * rank, 2 * rank + 2))).backward()
    torch.save(head.module.classifier.weight.grad, os.path.join(folder, f"head{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_ddp_averages_the_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_replica, (f"file://{tmp_path}/meeting", str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    model, trained = adapted("timm")
    whole = gradients(model, trained, images(4))
    assert_close(first, whole)
    assert_close(second, whole)
    head = fastlift.FusedCosineLoss(5, COUNTS)
    head(*head_batch(slice(None))).backward()
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"head{rank}.pt"), head.classifier.weight.grad)
