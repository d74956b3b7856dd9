"""What a GPU alone can show: streams, memory, CUDA graphs, a model of full size. The rest runs by the same tests on every device."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import on_gpu
from fixtures import Files, tiny_batch, tiny_learner, tiny_recipe

import fastlift
from fastlift.config import Config
from fastlift.engine.memory import estimate
from fastlift.errors import FastliftWarning
from fastlift.models.out_of_memory import attempt
from fastlift.models.precision import resolve_amp
from fastlift.system.cuda import check_triton, trouble
from fastlift.system.device import resolve_device
from fastlift.system.machine import driver
from fastlift.system.memory import free_memory
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

GPU = torch.device("cuda", 0)
MIB = 2**20
pytestmark = on_gpu()


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, "cuda", epochs=2, batch_size=8, lr=0.05, log_steps=1, amp="fp32")


def test_this_gpu_can_be_used() -> None:
    assert trouble() is None
    assert resolve_device("auto").type == "cuda"
    check_triton(GPU)
    found = driver()
    assert found is not None
    assert found.gpus
    assert resolve_amp("auto", GPU).dtype in (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_memory_does_not_grow(tiny_clip: Files, dtype: torch.dtype) -> None:
    some = tiny_learner(tiny_clip, GPU, dtype=dtype, micro_batch=4)
    images, labels = tiny_batch(some)
    held = []
    for _ in range(25):
        some.step(images, labels)
        held.append(torch.cuda.memory_allocated(GPU))
    assert len(set(held[5:])) == 1, held


def test_on_a_stream_of_the_caller_s(tiny_clip: Files) -> None:
    """Nothing of a step is queued elsewhere: the default stream is busy meanwhile, and nobody waits for it."""
    plain, streamed = (tiny_learner(tiny_clip, GPU, dtype=torch.bfloat16) for _ in range(2))
    batches = [(tiny_batch(plain, number), tiny_batch(streamed, number)) for number in range(3)]
    for one, _ in batches:
        plain.step(*one)
    tiny_learner(tiny_clip, GPU, dtype=torch.bfloat16).step(*batches[0][0])  # kernels are loaded by now
    large = torch.randn(4096, 4096, device=GPU)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(GPU)
    for _ in range(40):
        torch.mm(large, large)
    with torch.cuda.stream(stream):
        for _, other in batches:
            streamed.step(*other)
        copies = {name: parameter.detach().to("cpu") for name, parameter in streamed.parameters.items()}
    for name, parameter in plain.parameters.items():
        assert torch.equal(copies[name], parameter.cpu()), name


@pytest.mark.parametrize("place", [pytest.param("cuda:1", marks=on_gpu("cuda:1"))])
def test_nothing_of_it_lies_on_another_gpu(settings: Config, tmp_path: Path, place: str) -> None:
    before = torch.cuda.memory_allocated(0)
    run = fastlift.train(settings.override(device=place), output=tmp_path / "run")
    assert torch.cuda.memory_allocated(0) == before
    assert torch.cuda.current_device() == 0, "given back to the caller"
    assert {parameter.device for parameter in run.model.parameters()} == {torch.device(place)}


def test_a_run_waits_in_no_step(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches as the loader gives them, by torch's own watch."""
    step, watched = Learner.step, []

    def watching(self: Learner, *given: Any) -> bool:
        if self.watch.taken < 3:  # libraries start, kernels are compiled
            return step(self, *given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(self, *given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            watched.append(self.watch.taken)

    monkeypatch.setattr(Learner, "step", watching)
    fastlift.train(settings, output=tmp_path / "run")
    assert len(watched) == 2 * 5 - 3


@pytest.fixture
def quick_tuning() -> Iterator[None]:
    """CUDA graphs and all, but a choice among the library's products alone: writing others takes minutes."""
    import torch._inductor.config as inductor

    with inductor.patch(max_autotune_gemm_backends="ATEN"):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()


def train_losses(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event["train_loss"] for event in events if event["event"] == "epoch"]


@pytest.mark.usefixtures("quick_tuning")
@pytest.mark.parametrize("compile", ["default", "max"])
def test_a_compiled_run(settings: Config, tmp_path: Path, compile: str) -> None:
    """In parts of a batch, with a last batch that is not full, and evaluated: near an eager run, and the same when repeated.

    ``max`` replays whole steps, but for the first three and the last of each epoch.
    """
    settings = settings.override(micro_batch=4, eval_batch=8)
    eager = fastlift.train(settings.override(compile="off"), output=tmp_path / "eager")
    compiled = fastlift.train(settings.override(compile=compile), output=tmp_path / "compiled")
    assert train_losses(compiled.folder) == pytest.approx(train_losses(eager.folder), rel=2e-3)
    assert compiled.metrics.log_loss == pytest.approx(eager.metrics.log_loss, rel=5e-3)


def test_memory_that_runs_out_is_noticed_and_given_back() -> None:
    before = free_memory(GPU)
    assert before is not None
    assert (
        attempt(lambda: [torch.empty(16 * MIB, device=GPU), torch.empty(2**50, dtype=torch.uint8, device=GPU)]) is None
    )
    after = free_memory(GPU)
    assert after is not None
    assert abs(after - before) < 8 * MIB, "what torch keeps for later is free"


def test_a_vit_of_full_size() -> None:
    """ViT-B/16 in bf16: its estimate of memory holds, and its loss is near that of fp32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastliftWarning)
        model = fastlift.create_model(
            "ViT-B-16-quickgelu", class_names=[f"class {i}" for i in range(100)], init="random", rank=32
        )
    batch = 16
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(GPU)
    labels = torch.arange(batch, device=GPU)
    first_loss = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.set_compute_dtype(dtype)
        some = Learner(model.to(GPU), losses.build("LA", [5] * 100).to(GPU), OptimizerSettings(lr=0.0))
        some.step(images.to(dtype), labels)
        first_loss[dtype] = some.sums.read()[0]
    assert first_loss[torch.bfloat16] == pytest.approx(first_loss[torch.float32], rel=0.02)
    found = estimate(model, batch)
    some.optimizer.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats(GPU)
    base = torch.cuda.memory_allocated(GPU)
    some.step(images.bfloat16(), labels)
    peak = torch.cuda.max_memory_allocated(GPU) - base
    momentum = found.trained // 2  # which is there already
    assert peak < 1.3 * (found.needed - momentum), (peak, found)
    assert found.needed < 2 * peak, (peak, found)
