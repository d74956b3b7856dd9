"""The estimate counts what is kept, and activation checkpointing keeps less."""

from typing import Any

import pytest
import torch
from fixtures import CLASS_NAMES, Files

import fastlift
from fastlift.engine.memory import MemoryEstimate, estimate, saved_bytes, storages


def build(tiny_clip: Files, **settings: Any) -> Any:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=8, **settings)


def kept(model: Any, images: int = 2) -> float:
    """Bytes an image, in units of one token matrix [L, D] in fp32."""
    unit = model.vit.sequence_length * model.vit.width * 4
    batch = torch.zeros(images, 3, 32, 32, device=next(model.parameters()).device)
    return saved_bytes(lambda: model.vit(batch), storages(model)) / images / unit


def test_a_block_keeps_ten_token_matrices(tiny_clip: Files, device: torch.device) -> None:
    """x, q, k, v, attention's output, t and the MLP's pre-activation (four of them), plus the adapter's bottleneck.

    The first block keeps t alone, since nothing below its adapter learns; the last keeps one token's second half.
    """
    model = build(tiny_clip).to(device)
    assert model.vit.depth == 3
    bottleneck = 8 / model.vit.width  # the adapter's hidden activations
    first, middle, last = 1 + bottleneck, 10 + bottleneck, 1 + 3
    assert kept(model) == pytest.approx(first + middle + last, rel=0.1)


def test_checkpointing_keeps_less(tiny_clip: Files, device: torch.device) -> None:
    model, bytes_kept = build(tiny_clip).to(device), {}
    for recompute in ("none", "mlp", "block"):
        model.vit.activation_checkpointing = recompute
        bytes_kept[recompute] = kept(model)
    assert bytes_kept["none"] > 1.3 * bytes_kept["mlp"] > 1.3**2 * bytes_kept["block"]


def test_a_linear_probe_keeps_nothing_of_the_backbone(tiny_clip: Files, device: torch.device) -> None:
    assert kept(build(tiny_clip, tuner="none").to(device)) == 0


def test_estimates_grow_with_the_batch(tiny_clip: Files, device: torch.device) -> None:
    model = build(tiny_clip).to(device)
    one, ten = estimate(model, 1), estimate(model, 10)
    assert one.activations_per_image == ten.activations_per_image > 0
    assert ten.needed - one.needed == pytest.approx(9 * one.activations_per_image * 9 / 8, rel=1e-3)
    assert one.trained == 2 * sum(parameter.numel() * 4 for parameter in model.trained().values())


def test_what_it_says() -> None:
    gib = 2**30
    assert str(MemoryEstimate(gib, gib, 8, 16 * gib)) == "needs about 10.0 GiB more at batch 8; fits (16.0 GiB free)"
    MemoryEstimate(gib, gib, 8, 16 * gib).check()
    MemoryEstimate(gib, gib, 8, None).check()
    assert str(MemoryEstimate(gib, gib, 8, None)).endswith("at batch 8")
    refusal = r"10.0 GiB more at batch 8, but 4.0 GiB are free: --micro-batch 2 fits, and --recompute .*--memory ignore"
    with pytest.raises(fastlift.UserError, match=refusal):
        MemoryEstimate(gib, gib, 8, 4 * gib).check()
    with pytest.raises(fastlift.UserError, match="not even a --micro-batch of 1 fits"):
        MemoryEstimate(gib, gib, 8, 2 * gib).check()


def test_the_micro_batch_that_fits_divides_the_batch() -> None:
    """The batch of all processes, whatever this one has in memory at a time: of 9 images that fit, 9 or 8."""
    unit = 9 * 2**20  # of which an eighth is alive only within an op
    estimates = {
        batch: MemoryEstimate(0, unit * 8 // 9, batch, 9 * unit, whole) for batch, whole in ((12, 36), (10, 40))
    }
    assert {batch: found.fitting for batch, found in estimates.items()} == {12: 9, 10: 8}
    assert MemoryEstimate(0, unit, 12, None).fitting is None
