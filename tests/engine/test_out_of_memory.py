"""Memory that runs out: before the run, in a step, in evaluation; the message tells which size to try, and the way on holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_recipe
from safetensors.torch import load_file
from torch import Tensor

import fastlift
from fastlift import cli
from fastlift.config import Config
from fastlift.engine import memory
from fastlift.engine.memory import MemoryEstimate, Work, check_memory
from fastlift.errors import OutOfMemory
from fastlift.evaluation import evaluate as evaluation
from fastlift.evaluation.evaluate import evaluate
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models import out_of_memory
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import attempt
from fastlift.runs import folder as runs
from fastlift.system import memory as bounds
from fastlift.training.step import Learner

GIB = 2**30
Train = Callable[..., Any]


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, epochs=2, batch_size=8, lr=0.05, amp="fp32", eval_batch=6)


def full(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.fixture
def fails_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make a step fail where more than so many images are in memory at a time, from a step of the run on."""

    def arrange(step: int, images: int) -> None:
        features = LiftModel.features

        def limited(self: LiftModel, batch: Tensor) -> Tensor:
            if torch.is_grad_enabled() and len(batch) > images and taken["steps"] >= step:
                full()
            return features(self, batch)

        real = Learner.step

        def counted(self: Learner, *given: Any) -> bool:
            asked = real(self, *given)
            taken["steps"] += 1
            return asked

        taken = {"steps": 0}
        monkeypatch.setattr(LiftModel, "features", limited)
        monkeypatch.setattr(Learner, "step", counted)

    return arrange


def test_what_was_tried_is_let_go() -> None:
    """Else there would be no room for the advice, or for saving what was trained."""
    alive = []

    class Big:
        def __init__(self) -> None:
            alive.append(self)

        def __del__(self) -> None:
            gone.append(True)

    gone: list[bool] = []

    def work() -> str:
        big = Big()
        alive.clear()
        full(big)
        return "never"

    assert attempt(work) is None
    assert gone == [True]
    assert attempt(lambda: False) is False
    with pytest.raises(KeyError):
        attempt(lambda: {}["another error"])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_want_of_memory_has_several_kinds(error: Exception) -> None:
    def work() -> bool:
        raise error

    assert attempt(work) is None


def test_a_run_goes_on_with_the_micro_batch_that_it_was_told(
    settings: Config, tmp_path: Path, fails_from: Callable[[int, int], None]
) -> None:
    """Nothing that was done is lost, and the result is that of a run which had memory enough, to rounding."""
    whole = fastlift.train(settings, output=tmp_path / "whole")
    fails_from(7, 4)
    with pytest.raises(OutOfMemory) as caught:
        fastlift.train(settings, output=tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("out of memory in step 8 with 8 images at a time, ")
    assert " GiB free for them: try --micro-batch 4, or --recompute mlp or block. " in message
    assert "step-00000007" in message
    assert f"train --resume --output {tmp_path / 'run'}" in message
    assert caught.value.exit_code == 1
    resumed = fastlift.train(settings.override(micro_batch=4), output=tmp_path / "run", resume=True)
    first, second = (load_file(run.folder / "checkpoints" / "epoch-002.safetensors") for run in (whole, resumed))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5)
    assert fastlift.config.load(tmp_path / "run" / "config.json").training.micro_batch == 4
    assert fastlift.load_run(tmp_path / "run") is not None, "its checkpoints are still its own"


def test_before_the_first_checkpoint(settings: Config, tmp_path: Path, fails_from: Callable[[int, int], None]) -> None:
    fails_from(0, 0)
    with pytest.raises(OutOfMemory, match=r"step 1 with 8 images .*starts from the beginning with: .*--resume"):
        fastlift.train(settings, output=tmp_path / "run")
    assert runs.state(tmp_path / "run") is runs.State.BEGUN
    with pytest.raises(OutOfMemory, match=r"with 1 images at a time, .*: try --recompute mlp or block\. "):
        fastlift.train(settings.override(micro_batch=1), output=tmp_path / "run", resume=True)


def test_lade_compares_the_images_in_memory(
    settings: Config, tmp_path: Path, fails_from: Callable[[int, int], None]
) -> None:
    """So its micro-batch is part of what a run computes, and another one needs another run."""
    fails_from(1, 4)
    lade = settings.override(loss="LADE")
    with pytest.raises(OutOfMemory, match=r"try --recompute mlp or block, or --micro-batch 4 in a new run"):
        fastlift.train(lade, output=tmp_path / "run")
    with pytest.raises(fastlift.UserError, match="micro_batch was None, now 4"):
        fastlift.train(lade.override(micro_batch=4), output=tmp_path / "run", resume=True)


def test_the_command_line_says_it_in_a_sentence(
    settings: Config, tmp_path: Path, fails_from: Callable[[int, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails_from(2, 4)
    (tmp_path / "config.json").write_text(json.dumps(fastlift.config.to_dict(settings)))
    assert cli.main(["train", "--config", str(tmp_path / "config.json"), "--output", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert "fastlift: out of memory in step 3 with 8 images at a time" in told
    assert "Traceback" not in told
    command = ["train", "--resume", "--output", str(tmp_path / "run"), "--micro-batch", "4"]
    assert cli.main(command) == 0


@pytest.mark.parametrize(
    ("free", "size"), [(None, 16), (100 * GIB, 16), (5 * GIB, 4), (1, 1)], ids=["unknown", "half", "less", "none"]
)
def test_the_micro_batch_to_try(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch, free: int | None, size: int) -> None:
    """At most half of what was too many, whatever an estimate says; less where it says so; and always one that divides."""
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=["a", "b"])
    monkeypatch.setattr(out_of_memory, "free_memory", lambda device: free)
    found = MemoryEstimate(0, GIB, 32, free).needed_at
    message = str(out_of_memory.in_training(model, 32, 32, found, 5, True))
    assert f"try --micro-batch {size}, or --recompute" in message
    assert (" GiB free for them" in message) == (free is not None)


def test_evaluation(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run: what was trained is saved, and going on with less ends it."""
    real = evaluation.mean_logits
    monkeypatch.setattr(
        evaluation, "mean_logits", lambda model, images: real(model, images) if len(images) < 4 else full()
    )
    with pytest.raises(
        OutOfMemory, match=r"in evaluation with 6 crops at a time, .*: try --eval-batch 3\. .*epoch-002"
    ):
        fastlift.train(settings, output=tmp_path / "run")
    ended = fastlift.train(settings.override(eval_batch=3), output=tmp_path / "run", resume=True)
    assert ended.metrics.samples == 24
    data = fastlift.engine.build.load_data(settings.data, fastlift.system.progress.Quiet())
    counts = data.group_counts.tolist()
    monkeypatch.setattr(evaluation, "mean_logits", full)
    for changes, advice in (
        ({"tte": "fivecrop", "eval_batch": 20}, "with 20 crops at a time, .*--eval-batch 10$"),
        ({"tte": "fivecrop", "eval_batch": 1}, "with 5 crops at a time, .*fewer crops with --tte$"),
        ({"eval_batch": 1}, "with 1 crops at a time, .*a smaller model$"),
    ):
        with pytest.raises(OutOfMemory, match=advice):
            evaluate(ended.model, data.test, counts, settings.override(**changes).part(EvaluationSettings))


def test_classifier_inits_and_predictions(
    settings: Config,
    tmp_path: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run")
    monkeypatch.setattr(LiftModel, "features", full)
    with pytest.raises(OutOfMemory, match=r"in classifier init class_mean with 6 crops at a time, .*--eval-batch 3"):
        fastlift.train(settings.override(init="class_mean"), output=tmp_path / "init")
    assert cli.main(["predict", str(run.folder), str(tiny_data / "test"), "--eval-batch", "8"]) == 1
    assert "fastlift: out of memory in prediction with 8 crops at a time" in capsys.readouterr().err


# What a GPU has


@pytest.fixture
def gpu_of_8_gib(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Of which another process has 4, and torch 3, of which it has given out 1."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Pretended GPU")
    return torch.device("cuda", 0)


def test_what_torch_keeps_and_has_not_given_out_is_free(
    gpu_of_8_gib: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "free_bytes", lambda: 5 * GIB)
    assert bounds.free_memory(gpu_of_8_gib) == 3 * GIB
    assert bounds.free_memory(torch.device("cpu")) == 5 * GIB


def _check(config: Config, device: torch.device) -> None:
    check_memory(config.model, config.run, 6, Work.of(config.training, config.run, 10**6, 1), device)


def test_settings_that_no_gpu_of_that_size_holds(settings: Config, gpu_of_8_gib: torch.device) -> None:
    """Told before anything is made, in the GPU's name, with a micro-batch that divides the batch."""
    many = settings.override(batch_size=3 * 2**16, model="ViT-B-16", pretrained=None)
    with pytest.raises(fastlift.UserError, match=r"^batch_size: 196608 .*Choose a smaller batch_size; --memory"):
        _check(many, gpu_of_8_gib)  # its pixels alone are too many
    small = settings.override(batch_size=512, model="ViT-B-16", pretrained=None)
    refusal = (
        r"^batch_size: 512 .* of the GPU \(cuda:0\): .*Choose a smaller batch_size, or --micro-batch \d+, which may fit"
    )
    with pytest.raises(fastlift.UserError, match=refusal) as error:
        _check(small, gpu_of_8_gib)
    size = int(str(error.value).split("--micro-batch ")[1].split(",")[0])
    fitting = small.override(micro_batch=size)
    _check(fitting, gpu_of_8_gib)
    too_many = small.override(micro_batch=2 * size)
    with pytest.raises(fastlift.UserError):
        _check(too_many, gpu_of_8_gib)


def test_weights_count_as_they_lie_on_the_gpu(settings: Config, gpu_of_8_gib: torch.device) -> None:
    shape = fastlift.models.backbones.outline("ViT-B-16")
    assert shape is not None
    numbers = sum(parameter.numel() for parameter in shape.vit.parameters())
    for changes, itemsize in (({"amp": "fp32"}, 4), ({"amp": "auto"}, 2), ({"amp": "bf16", "frozen": "fp8"}, 2)):
        assert memory._weights(shape, settings.override(**changes).run, gpu_of_8_gib) == itemsize * numbers
