"""Memory of a step, counted tensor by tensor."""

from __future__ import annotations

import torch

from benchmarks.end_to_end.memory import Peak, of_a_step


def test_the_peak_is_of_what_is_alive_together() -> None:
    given = torch.ones(1000)
    with Peak() as peak:
        first = given * 2  # 4,000 bytes
        second = first + 1  # 4,000 more
        del first
        third = second.view(10, 100) + 1  # a view costs nothing, the sum takes the place of what is gone
        given.add_(third.sum())
    assert 8000 <= peak.most < 8000 + 16


def test_an_image_takes_at_most_40_mb() -> None:
    found = of_a_step("ViT-B-16-quickgelu", torch.bfloat16)
    assert found["none"]["an_image"] < 40e6
    assert found["none"]["an_image"] > found["mlp"]["an_image"] > found["block"]["an_image"] > 0
