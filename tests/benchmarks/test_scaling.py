"""docs/scaling.md: what is counted is what travels, the times follow from it, and the page is the program's."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from several import together

import fastlift
from benchmarks.counting import Shape, backbone, trained
from benchmarks.scaling import measured, model, page, worker
from benchmarks.scaling.model import (
    CAPTURED,
    FULL,
    LIFT,
    NETWORKS,
    SLOW,
    Network,
    all_gather_s,
    all_reduce_s,
    classes_exchange,
    exposed_s,
    step,
    strong,
    with_classes,
)
from fastlift.engine.processes import company
from fastlift.models.classifiers import CosineClassifier
from fastlift.training import split_losses
from fastlift.training.class_shards import ShardSettings
from fastlift.training.distributed import open_group

CPU = torch.device("cpu")
SHAPES_CLIP = Shape(tokens=37, width=128, mlp=512, heads=2, depth=6, patch=8, rank=4, classes=64)


def test_the_document_is_up_to_date() -> None:
    assert page.DOCUMENT.read_text(encoding="utf-8") == page.document()


def test_the_plot_can_be_drawn_and_is_there(tmp_path: Path) -> None:
    page.draw(tmp_path / "plot.svg")
    assert "images/s" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert page.PLOT.is_file()


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    assert "Not all was measured" in page.document(tmp_path)
    assert "Not all was measured" not in page.document()


def test_numbers_of_a_shape_are_those_of_a_model() -> None:
    made = fastlift.create_model("shapes-clip", class_names=[f"class {i}" for i in range(64)], rank=4, init="random")
    vit: Any = made.vit
    assert vit.sequence_length == SHAPES_CLIP.tokens
    assert trained(SHAPES_CLIP) == sum(parameter.numel() for parameter in made.trained().values())
    assert backbone(SHAPES_CLIP) == sum(numbers.numel() for numbers in vit.parameters() if not numbers.requires_grad)


def ms(seconds: float) -> float:
    return pytest.approx(1e3 * seconds)


def test_an_all_reduce_by_hand() -> None:
    assert all_reduce_s(1e9, 1, SLOW) == 0
    # Two GPUs: a ring of two moves 1 x S in two hops; a switch 1.5 x S.
    assert ms(all_reduce_s(360e6, 2, SLOW)) == 1.0 + 2 * 0.0034 + 0.0084
    # Eight, little data: a ring's 14 hops are 47.6 us, the switch takes 25.
    assert ms(all_reduce_s(0, 8, SLOW)) == 0.025 + 0.0084
    # Two nodes, ring: 1 x S through 11.25 GB/s, two hops of the network.
    inside = 1e3 * all_reduce_s(11.25e6, 8, SLOW)
    assert ms(all_reduce_s(11.25e6, 16, SLOW)) == inside + 1.0 + 2 * 0.014
    # 64 nodes, no data: the tree's 12 hops, not the ring's 126.
    assert ms(all_reduce_s(0, 512, SLOW)) == 0.025 + 0.0084 + 12 * 0.014
    assert ms(all_gather_s(0, 512, SLOW)) == 7 * 0.0034 + 0.0084 + 63 * 0.014


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
@pytest.mark.parametrize("collective", [all_reduce_s, all_gather_s])
def test_more_bytes_and_more_nodes_take_longer(collective: Any, network: Network) -> None:
    sizes, counts = (0, 1e5, 1e7, 1e9), (1, 2, 8, 16, 64, 512)
    times = [[collective(size, gpus, network) for size in sizes] for gpus in counts]
    assert all(row == sorted(row) for row in times)
    assert all(list(column) == sorted(column) for column in zip(*times[2:], strict=True))
    # A node's network carries at least all bytes but a node's own once.
    least = (1 - 8 / 512) * 1e9 / (1e9 * network.gb_per_s)
    assert collective(1e9, 512, network) > least


def test_large_buffers_hide_behind_the_backward_pass() -> None:
    def summed(size: float) -> float:
        return size / 1e9

    segment = 16 * 2**20
    assert exposed_s(segment, 1e9, summed) == summed(segment)
    assert exposed_s(10 * segment, 0.0, summed) == pytest.approx(summed(10 * segment))
    assert exposed_s(10 * segment, 1e9, summed) == pytest.approx(summed(segment))
    assert exposed_s(10 * segment, summed(3 * segment), summed) == pytest.approx(summed(7 * segment))


def test_no_way_is_faster_than_n_gpus() -> None:
    for training in (LIFT, CAPTURED, FULL, with_classes(100_000, True)):
        alone = step(training, 64, 1, SLOW)
        assert alone.exchange == 0
        assert step(training, 64, 64, NETWORKS[2]).exchange < step(training, 64, 64, SLOW).exchange
    for batch in (128, 4096):
        speeds = [strong(LIFT, batch, gpus, SLOW) for gpus in (1, 2, 4, 8)]
        assert all(speed <= gpus * speeds[0] for speed, gpus in zip(speeds, (1, 2, 4, 8), strict=True))
    assert strong(LIFT, 128, 1024, SLOW) < strong(LIFT, 128, 128, SLOW)  # those without an image only add hops
    with pytest.raises(ValueError, match="do not divide"):
        strong(LIFT, 128, 3, SLOW)


def test_a_split_classifier_costs_memory_and_products_by_its_share() -> None:
    whole, split = (model.classifier_gib(100_000, 8, 64, sharded) for sharded in (False, True))
    assert 1 / 8 <= split / whole < 1 / 6  # as many logits: of an eighth of the classes and eight times the images
    flop = [sum(part.flop for part in model.kernel_parts(with_classes(80_000, s), 64, 8)) for s in (False, True)]
    assert flop[0] == pytest.approx(flop[1])  # an eighth of the classes, eight times the images


WIDTH, CLASSES, IMAGES = 16, 10, 6


def bytes_of_a_split_loss() -> dict[str, list[int]]:
    """What the collectives of a split classifier's loss carry, forward and backward: whole results of gathers."""
    sizes: dict[str, list[int]] = {"gathered": [], "reduced": []}

    def noting(kind: str, collective: Any, counts_result: bool) -> Any:
        def noted(tensor: torch.Tensor, *more: Any) -> torch.Tensor:
            result = collective(tensor, *more)
            sizes[kind].append((result if counts_result else tensor).nbytes)
            return result

        return noted

    with company() as world, pytest.MonkeyPatch.context() as patch:
        open_group(world, CPU)
        own: Any = ShardSettings(shard_classifier=True).build(CosineClassifier(WIDTH, CLASSES), CLASSES, world)
        own.rows = IMAGES // world.size
        features = torch.randn(own.rows, WIDTH, requires_grad=True)
        for name, kind in (("gather", "gathered"), ("scattered_sum", "gathered"), ("reduced", "reduced")):
            collective = getattr(split_losses, name)
            patch.setattr(split_losses, name, noting(kind, collective, counts_result=name == "gather"))
        own.cross_entropy(features, torch.arange(own.rows))[0].backward()
    return sizes


def test_the_counted_bytes_of_a_split_loss_are_those_of_its_collectives(tmp_path: Path) -> None:
    gathered, reduced = classes_exchange(Shape(width=WIDTH, classes=CLASSES, bytes=4), IMAGES)
    for found in together(tmp_path, 2, bytes_of_a_split_loss):
        assert sorted(found["gathered"]) == sorted(gathered)
        assert sorted(found["reduced"]) == sorted(reduced)


def test_the_interval_loses_least_time() -> None:
    best = model.interval_s(0.9, 1000)
    assert best == pytest.approx(math.sqrt(2 * 0.9 * 16_384 * 54 * 24 / 419 / 1000 * 3600))
    lost = partial(model.lost_share, 0.9, restart_s=180.0, gpus=1000)
    assert lost(interval=best) < min(lost(interval=0.9 * best), lost(interval=1.1 * best))


def test_rounds_are_compared_by_their_slowest_process() -> None:
    found = [
        {"seconds": {"a": [1.0, 4.0, 1.0, 9.0], "b": [1.0, 2.0, 1.0, 1.0]}},
        {"seconds": {"a": [2.0, 2.0, 3.0, 1.0], "b": [0.5, 1.0, 2.0, 3.0]}},
    ]
    assert measured.slowest(found, "a") == [2.0, 4.0, 3.0, 9.0]
    compared = measured.compared(found, "a", "b")
    assert (compared["a_ms"], compared["b_ms"], compared["ratio"]) == (3500.0, 2000.0, 2.0)


def test_the_largest_difference_is_found() -> None:
    losses = [2.0, 1.0, 0.5]
    assert measured.largest_difference(losses, losses) == 0
    assert measured.largest_difference([2.0, 1.0, 0.4995], losses) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        measured.largest_difference(losses[:2], losses)


def measure_a_step() -> dict[str, Any]:
    with company() as world, pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "BATCH", 4)
        open_group(world, CPU)
        return worker.step(world, 4)


def test_a_step_is_measured_in_turn(tmp_path: Path) -> None:
    """The program's own worker, with a batch of four: both ways in every round, on both processes."""
    found = together(tmp_path, 2, measure_a_step)
    assert [one["share"] for one in found] == [2, 2]
    assert found[0]["bytes"] == 4 * trained(SHAPES_CLIP)
    assert all(len(rounds) == 4 and min(rounds) > 0 for one in found for rounds in one["seconds"].values())
    assert set(measured.compared(found, "together", "alone")) >= {"together_ms", "alone_ms", "ratio"}
