"""Several processes take the same steps as one, whatever their number, and evaluate every image once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files
from several import together
from torch import Tensor

import fastlift
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.crops import TrainCrops
from fastlift.engine.agreement import agree, first_says
from fastlift.engine.processes import company
from fastlift.training import distributed
from fastlift.training.averaging import AverageSettings
from fastlift.training.distributed import Vote, World, open_group, rows_of_all
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

BATCH = 12  # of 38 images: three batches and two images, which leaves ranks of four without any


def learner(
    clip: Files,
    loss: str,
    world: World,
    dtype: torch.dtype = torch.float32,
    micro_batch: int | None = None,
    optimizer: OptimizerSettings = OptimizerSettings(lr=0.05),  # noqa: B008 - frozen
    average: AverageSettings = AverageSettings(),  # noqa: B008 - frozen
    **options: Any,
) -> Learner:
    options = {"rank": 3, "init": "random"} | options
    model = fastlift.create_model(clip[0], pretrained=clip[1], class_names=CLASS_NAMES, **options)
    model.set_compute_dtype(dtype)
    built = fastlift.losses.build(loss, CLASS_COUNTS)
    return Learner(model, built, optimizer, micro_batch=micro_batch, world=world, average=average)


def epoch(clip: Files, data: Path, world: World, loss: str = "LA", **options: Any) -> dict[str, Any]:
    """One epoch: the loss and the sums of each step, what was seen, and the parameters at its end."""
    train = load_data_set(
        "list",
        data_root=data,
        train_list=data / "train.txt",
        test_list=data / "test.txt",
        class_names=data / "class_names.txt",
    ).train
    some = learner(clip, loss, world, **options)
    loader = build_loader(
        train,
        TrainCrops(32),
        batch_size=BATCH,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        rank=world.rank,
        world_size=world.size,
        workers=1,
    )
    seen, sums = [], []
    for batch in loader.epoch(0):
        before = float(some.sums.loss)
        some.step(batch.images, batch.labels, batch.whole)
        seen.append((batch.indices, batch.images.clone()))
        loss_of_step = (float(some.sums.loss) - before) / len(batch.whole)
        sums.append((loss_of_step, *some.sums.read(), some.sums.images))
    loader.close()
    held = dict(some.parameters) if some.average is None else some.average.weights
    return {"seen": seen, "sums": sums, "parameters": {n: p.detach().clone() for n, p in held.items()}}


CASES: dict[str, dict[str, Any]] = {
    "LA": {},
    "CB": {"loss": "CB"},
    "LADE": {"loss": "LADE"},
    "GRW in parts": {"loss": "GRW", "micro_batch": 2},
    "LDAM in parts": {"loss": "LDAM", "micro_batch": 2},
    "Focal in parts": {"loss": "Focal", "micro_batch": 1},
    "everything trains": {"tuner": "full", "micro_batch": 2},
    "LoRA, LayerNorm": {"loss": "CB", "tuner": ["lora", "layernorm"]},
    "prompts": {"loss": "LADE", "tuner": "vpt_deep"},
    "text": {"classifier": "text", "init": "text", "text_tuner": ["coop"]},
    "clipped": {"optimizer": OptimizerSettings(lr=0.05, clip_grad=0.5), "micro_batch": 2},
    "AdamW, clipped": {"optimizer": OptimizerSettings(lr=0.001, optimizer="adamw", eps=1e-4, clip_grad=0.5)},
    "averaged": {"average": AverageSettings(0.8)},
}


def ranks_work(clip: Files, data: Path) -> dict[str, Any]:
    """On each rank: what the tests below compare."""
    with company() as world:
        open_group(world, torch.device("cpu"))
        return {name: epoch(clip, data, world, **options) for name, options in CASES.items()}


@pytest.fixture(scope="module")
def alone(tiny_clip: Files, tiny_data: Path) -> dict[str, dict[str, Any]]:
    """What one process makes of each case."""
    return {name: epoch(tiny_clip, tiny_data, World(), **options) for name, options in CASES.items()}


@pytest.mark.parametrize("processes", [2, 4])
def test_an_epoch_is_the_same_for_any_number_of_ranks(
    processes: int, alone: dict[str, dict[str, Any]], tiny_clip: Files, tiny_data: Path, tmp_path: Path
) -> None:
    """The same samples with the same crops, each of the same weight: losses and sums of every step, and parameters."""
    ranks = together(tmp_path, processes, ranks_work, tiny_clip, tiny_data)
    for name, one in alone.items():
        several = [rank[name] for rank in ranks]
        if processes == 4:
            assert 0 in {len(rank["seen"][-1][0]) for rank in several}, "of the last batch, one rank has no image"
        for step, (rows, images) in enumerate(one["seen"]):
            assert torch.equal(rows, torch.cat([rank["seen"][step][0] for rank in several]))
            assert torch.equal(images, torch.cat([rank["seen"][step][1] for rank in several]))
        for rank in several:
            for mine, theirs in zip(one["sums"], rank["sums"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5), name
            for key, parameter in several[0]["parameters"].items():
                assert torch.equal(rank["parameters"][key], parameter), "ranks drift apart"
                expected: Tensor = one["parameters"][key]
                torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6, msg=f"{name}: {key}")


def overflow(clip: Files) -> list[tuple[float, Tensor]]:
    """Rank 1's second gradient overflows as fp16's do, its loss does not: scale and parameters after each step."""
    steps = []
    with company() as world:
        open_group(world, torch.device("cpu"))
        some = learner(clip, "LA", world, torch.float16)
        some.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        labels = torch.arange(4)
        for step in range(3):
            generator = torch.Generator().manual_seed(2 * step + world.rank)
            images = torch.randn(4, 3, 32, 32, generator=generator).half()
            parameter = next(iter(some.parameters.values()))
            overflows = step == 1 and world.rank == 1
            hook = parameter.register_hook(lambda gradient, by=float("inf") if overflows else 1.0: gradient * by)
            some.step(images, labels, torch.cat([labels, labels]))
            hook.remove()
            steps.append((some.scaler.get_scale(), torch.cat([p.detach().flatten() for p in some.parameters.values()])))
    return steps


def test_an_overflow_of_one_rank_keeps_all_from_the_step(tiny_clip: Files, tmp_path: Path) -> None:
    first, second = together(tmp_path, 2, overflow, tiny_clip)
    for (scale, parameters), (other_scale, others) in zip(first, second, strict=True):
        assert scale == other_scale
        assert torch.equal(parameters, others)
    assert [scale for scale, _ in first] == [256.0, 128.0, 128.0]
    assert torch.equal(first[0][1], first[1][1]), "the step was not skipped"
    assert not torch.equal(first[1][1], first[2][1])
    assert first[2][1].isfinite().all()


def voting(clip: Files) -> list[bool]:
    with company() as world:
        open_group(world, torch.device("cpu"))
        some = learner(clip, "LA", world)
        images, labels = torch.zeros(2, 3, 32, 32), torch.arange(2)
        whole = torch.cat([labels, labels])
        asked = [lambda: False, lambda: world.rank == 1, lambda: False]
        return [some.step(images, labels, whole, ask) for ask in asked]


def test_a_stop_asked_of_one_rank_is_heard_by_all_after_the_same_step(tiny_clip: Files, tmp_path: Path) -> None:
    assert together(tmp_path, 2, voting, tiny_clip) == [[False, True, False]] * 2


ROWS = torch.arange(24.0).view(8, 3)
SHARES = (ROWS[:5], torch.empty(0, 0), ROWS[5:])  # by rank; one without rows does not know how wide they are


def gathering() -> Tensor | None:
    distributed.PIECE_BYTES = 2 * 3 * 4  # two rows at a time
    with company() as world:
        open_group(world, torch.device("cpu"))
        return rows_of_all(SHARES[world.rank], world, torch.device("cpu"))


def test_rows_of_all_ranks_come_to_the_first_in_pieces(tmp_path: Path) -> None:
    whole, *others = together(tmp_path, len(SHARES), gathering)
    assert torch.equal(whole, ROWS)
    assert others == [None, None]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with company() as world:
        assert world == World()
        open_group(world, torch.device("cpu"))
        assert not torch.distributed.is_initialized()
        agree(world, {"anything": 1})
        assert first_says(world, lambda: "this") == "this"
    assert not Vote(torch.device("cpu")).last()
