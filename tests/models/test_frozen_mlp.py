"""A block's MLP as one op where nothing in it learns, and site by site where a tuner is in it: the same results."""

from typing import Any

import pytest
import torch
from fixtures import Files, tiny_batch, tiny_learner, train_on

import fastlift_kernels
from fastlift.models import vit
from fastlift.training.optimizers import OptimizerSettings


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keywords of each call of the op."""
    seen: list[dict[str, Any]] = []
    plain = fastlift_kernels.mlp

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(options)
        return plain(*args, **options)

    monkeypatch.setattr(fastlift_kernels, "mlp", watched)
    return seen


def site_by_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit, "frozen_mlp", lambda *_, **__: None)


def losses_of(
    clip: Files, batch_dtype: torch.dtype = torch.float32, recompute: Any = "none", **settings: Any
) -> list[float]:
    torch.manual_seed(0)
    # at a larger rate rounding grows tenfold in some steps, as it does with another number of threads
    learner = tiny_learner(clip, dtype=batch_dtype, optimizer=OptimizerSettings(lr=0.005), **settings)
    learner.model.vit.activation_checkpointing = recompute
    return train_on(learner, *tiny_batch(learner), 20)


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
def test_losses_of_twenty_steps(
    tiny_clip: Files, calls: list[Any], monkeypatch: pytest.MonkeyPatch, recompute: Any
) -> None:
    found = losses_of(tiny_clip, recompute=recompute)
    assert calls
    assert all(options["overwrite"] for options in calls)
    calls.clear()
    site_by_site(monkeypatch)
    assert found == pytest.approx(losses_of(tiny_clip, recompute=recompute), rel=1e-5)
    assert not calls


def test_losses_in_bfloat16(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near to those in float32 as site by site."""
    found = losses_of(tiny_clip, torch.bfloat16)
    site_by_site(monkeypatch)
    exact, eager = losses_of(tiny_clip), losses_of(tiny_clip, torch.bfloat16)
    allowed = max(abs(a - b) for a, b in zip(eager, exact, strict=True))
    assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) <= 2 * allowed


@pytest.mark.parametrize("tuner", ["lora_mlp", "mask", "ssf_mlp", "adapter", "full"])
def test_a_site_that_is_taken_is_called(tiny_clip: Files, calls: list[Any], tuner: str) -> None:
    learner = tiny_learner(tiny_clip, model={"tuner": tuner})
    learner.step(*tiny_batch(learner))
    assert not calls


def test_without_an_adapter_the_residual_is_left_alone(tiny_clip: Files, calls: list[Any]) -> None:
    """There it is t itself, which LayerNorm's backward reads."""
    model = tiny_learner(tiny_clip, model={"tuner": "lora"}).model
    block: Any = model.vit.block(0)
    t = torch.randn(2, 5, model.vit.width, requires_grad=True)
    block.transform(t).sum().backward()
    assert [options["overwrite"] for options in calls] == [False]


def test_the_implementation_that_a_block_names(tiny_clip: Files, calls: list[Any]) -> None:
    learner = tiny_learner(tiny_clip)
    for block in learner.model.vit.blocks:
        block.mlp_impl = "reference"
    learner.step(*tiny_batch(learner))
    assert {options["impl"] for options in calls} == {"reference"}
