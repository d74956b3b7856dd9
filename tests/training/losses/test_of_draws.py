"""The loss corrects for the class frequencies of the draws: what it is in each epoch, and that it changes in place."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import CLASS_COUNTS, Files, tiny_batch, tiny_learner
from tape import Dispatched, Tape

from fastlift.data.sampling.class_draws import Sampling, expected_draws
from fastlift.training import losses
from fastlift.training.captured import WARM_UP, CapturedStep
from fastlift.training.losses import LossSettings
from fastlift.training.losses.of_draws import LossOfDraws
from fastlift.training.optimizers import OptimizerSettings
from fastlift_kernels.cosine_ce import op

COUNTS, EPOCHS = np.array(CLASS_COUNTS), 4
NAMES = ("LA", "BS", "LADE", "CB", "GRW", "LDAM", "CE", "Focal")


def of(loss: str, sampling: Sampling, **options: Any) -> LossOfDraws:
    return LossOfDraws(LossSettings(loss, **options), 25.0, COUNTS, sampling, EPOCHS)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(9, len(COUNTS), generator=generator, dtype=torch.float64)
    return logits, torch.arange(9) % len(COUNTS)


@pytest.mark.parametrize("name", NAMES)
def test_without_resampling_nothing_changes(name: str) -> None:
    mine, plain = of(name, "shuffle").at(2), LossSettings(name).build(COUNTS)
    assert [(key, value.tolist()) for key, value in mine.named_buffers()] == [
        (key, value.tolist()) for key, value in plain.named_buffers()
    ]


@pytest.mark.parametrize(
    ("name", "options"), [("LA", {}), ("LA", {"tau": 1.7}), ("BS", {}), ("CB", {}), ("GRW", {}), ("CE", {})]
)
def test_balanced_draws_make_it_cross_entropy(name: str, options: dict[str, float]) -> None:
    """Up to the rounding of logarithms in single precision; unbalanced it is far from it."""
    logits, labels = batch()
    expected = F.cross_entropy(logits, labels)
    found = of(name, "balanced", **options).at(0)(logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    if name != "CE":
        assert abs(of(name, "shuffle", **options).at(0)(logits, labels) - expected) > 1e-3


@pytest.mark.parametrize("sampling", ["square_root", "progressive", "balanced"])
@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_the_prior_is_that_of_the_draws(sampling: Sampling, epoch: int) -> None:
    draws = expected_draws(COUNTS, sampling, epoch, EPOCHS)
    prior = of("LA", sampling).at(epoch).get_buffer("log_prior").exp()
    torch.testing.assert_close(prior.double(), torch.from_numpy(draws / draws.sum()), rtol=1e-6, atol=0)


def test_margins_are_of_the_images_there_are() -> None:
    for sampling in ("square_root", "progressive", "balanced"):
        margins = of("LDAM", sampling).at(1).get_buffer("margins")
        assert torch.equal(margins, LossSettings("LDAM").build(COUNTS).get_buffer("margins"))


@pytest.mark.parametrize("name", NAMES)
def test_it_follows_the_epochs_in_place(name: str) -> None:
    logits, labels = batch()
    progressive = of(name, "progressive")
    loss = progressive.at(0)
    places = [buffer.data_ptr() for buffer in loss.buffers()]
    for epoch in (0, 2, 3, 1):
        progressive.follow(loss, epoch)
        assert torch.equal(loss(logits, labels), progressive.at(epoch)(logits, labels))
    assert [buffer.data_ptr() for buffer in loss.buffers()] == places
    steady = of(name, "balanced").at(0)
    of(name, "balanced").follow(steady, 3)
    assert torch.equal(steady(logits, labels), of(name, "balanced").at(0)(logits, labels))


@pytest.mark.parametrize("name", ["LA", "GRW"])
def test_a_captured_step_sees_it(tiny_clip: Files, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that was recorded in one epoch has the loss of the next, to the last bit."""
    monkeypatch.setattr(op, "check_labels", lambda labels, classes: None)  # they are looked at on CPUs alone
    progressive, results = of(name, "progressive"), []
    for captured in (False, True):
        optimizer = OptimizerSettings(lr=2**-4)  # a captured step has it in single precision
        learner = tiny_learner(tiny_clip, loss=name, model={"init": "random"}, optimizer=optimizer)
        learner.loss = progressive.at(0)
        said: list[str] = []
        step = CapturedStep(learner, said.append, Tape()).step if captured else learner.step
        for epoch in range(2):
            progressive.follow(learner.loss, epoch)
            with Dispatched():
                for number in range(WARM_UP + 2):
                    step(*tiny_batch(learner, number, size=4))
        assert not captured or any("captured in a CUDA graph, for" in line for line in said)
        results.append({key: value.clone() for key, value in learner.model.state().items()})
    for key, value in results[0].items():
        assert torch.equal(results[1][key], value), key


@pytest.mark.parametrize(
    ("name", "sampling", "told"),
    [
        (
            "LA",
            "balanced",
            "The loss LA corrects for the frequencies of the draws, which are equal: it is cross-entropy",
        ),
        ("LADE", "balanced", "The loss LADE corrects for the frequencies of the draws, which are equal"),
        ("LA", "progressive", "The loss LA corrects for the class frequencies of the running epoch's draws"),
        ("BS", "square_root", "The loss BS corrects for the class frequencies of the draws, not for those of the data"),
        ("LDAM", "balanced", "The margins of LDAM stay those of the numbers of different images"),
        ("CE", "balanced", "The loss CE knows no class frequencies"),
    ],
)
def test_it_says_so(name: str, sampling: Sampling, told: str) -> None:
    line = of(name, sampling).told()
    assert line.startswith(f"sampling {sampling}: an epoch has 38 draws as before; the rarest class, of 2 images, ")
    assert told in line
    assert "\n" not in line
    assert of(name, "shuffle").told() == ""


def test_every_loss_is_of_one_kind() -> None:
    """A loss whose constants are of the class counts either follows the draws or is LDAM: a new one has to be told which."""
    for name in losses._BUILDERS:
        has_constants = any(True for _ in losses.build(name, CLASS_COUNTS).buffers())
        follows = any(
            not torch.equal(a, b)
            for a, b in zip(of(name, "balanced").at(0).buffers(), of(name, "shuffle").at(0).buffers(), strict=True)
        )
        assert follows == (has_constants and name != "LDAM"), name
