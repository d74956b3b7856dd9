"""The choice of a loss: by name with its own options, as a setting, and what a new one takes."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from fixtures import with_a_line
from torch import Tensor

from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.training import losses
from fastlift.training.losses import Loss, LossName, LossSettings

COUNTS = (9, 3, 1)


@pytest.mark.parametrize(
    ("name", "counts", "options", "message"),
    [
        ("Fokal", COUNTS, {}, "did you mean Focal"),
        ("LA", COUNTS, {"tua": 2}, "did you mean tau"),
        ("CE", COUNTS, {"tau": 2}, "unknown option of the loss CE"),
        ("LA", [3, 0, 2], {}, r"1 of 3 classes have no image \(first: 1\)"),
        ("LA", [], {}, "one number a class"),
        ("LA", [[1, 2]], {}, "one number a class"),
        ("Focal", COUNTS, {"gamma": -1}, "gamma: expected 0 or more"),
        ("LDAM", COUNTS, {"margin": -0.5}, "margin: expected 0 or more"),
        ("LDAM", COUNTS, {"scale": float("nan")}, "scale: expected 0 or more"),
        ("LADE", COUNTS, {"regularisation": -0.1}, "regularisation: expected 0 or more"),
        ("CB", COUNTS, {"beta": 1.0}, r"beta: expected a number in \[0, 1\)"),
        ("LA", COUNTS, {"tau": float("inf")}, "tau: expected a number"),
        ("LA", COUNTS, {"label_smoothing": 1.0}, r"label_smoothing: expected a number in \[0, 1\)"),
        ("CB", COUNTS, {"label_smoothing": float("nan")}, r"label_smoothing: expected a number in \[0, 1\)"),
        (
            "Focal",
            COUNTS,
            {"label_smoothing": 0.1},
            "the loss Focal has no soft labels .*; use one of CE, CB, GRW, BS, LA",
        ),
    ],
)
def test_mistakes(name: str, counts: list[int], options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        losses.build(name, counts, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "AL"}, "unknown value of loss 'AL'; did you mean Focal or LA"),
        ({"loss": "CE", "tau": 2.0}, "tau is the strength of logit adjustment: the loss CE has none"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a number in \[0, 1\), got 1.0"),
        *[
            ({"loss": loss, "label_smoothing": 0.1}, f"label_smoothing: the loss {loss} has no soft labels .{why}")
            for loss, why in {"Focal": "it weighs", "LDAM": "its margin", "LADE": "it estimates"}.items()
        ],
    ],
)
def test_settings_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        LossSettings(**values)


@pytest.mark.parametrize("name", get_args(LossName))
def test_every_loss_that_has_a_name_is_built(name: Any) -> None:
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 0, 1])
    found, expected = LossSettings(loss=name).build(COUNTS), losses.build(name, COUNTS)
    assert torch.equal(found(logits, labels), expected(logits, labels))


@pytest.mark.parametrize("setting", ["mixup", "cutmix"])
def test_mixing_is_refused_where_the_loss_has_no_soft_labels(setting: str) -> None:
    for loss in ("Focal", "LDAM", "LADE"):
        with pytest.raises(UserError, match=f"^{setting}: the loss {loss} has no soft labels .*; use one of CE, CB"):
            Config().override(loss=loss, **{setting: 0.5})
    for loss in ("CE", "CB", "GRW", "BS", "LA"):
        Config().override(loss=loss, **{setting: 0.5})
    with pytest.raises(UserError, match=f"^{setting}: a batch of one image has no pair to mix"):
        Config().override(batch_size=1, **{setting: 0.5})


def test_names_are_those_of_the_losses() -> None:
    with pytest.raises(UserError, match=f"known: {', '.join(get_args(LossName))}$"):
        losses.build("?", COUNTS)


def test_options_reach_their_loss() -> None:
    assert LossSettings(tau=0.5).build(COUNTS).tau == 0.5
    assert LossSettings(loss="LDAM").build(COUNTS, scale=7.0).scale == 7.0
    assert LossSettings(loss="LDAM").build(COUNTS).scale == 25.0
    for loss in ("CE", "CB", "GRW", "BS", "LA"):
        assert LossSettings(loss=loss, label_smoothing=0.25).build(COUNTS).label_smoothing == 0.25


class ToyLoss(Loss):
    """Mean of the square of what the true logit misses of ``reach``: what the file of a new loss holds."""

    def __init__(self, class_counts: Tensor, reach: float = 1.0) -> None:
        super().__init__()
        self.reach, self.classes = reach, len(class_counts)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return ((self.reach - logits.gather(1, labels[:, None])) ** 2).mean()


def test_a_new_loss_is_a_file_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with one more line in its list knows the loss, its option, and the setting's new choice."""
    grown = with_a_line(losses, '    "LADE": LADELoss,', '    "Toy": ToyLoss,', ToyLoss, monkeypatch)
    *others, last = get_args(LossName)
    assert get_args(grown.LossName) == (*others, "Toy", last)
    loss = grown.LossSettings(loss="Toy").build(COUNTS)
    assert (type(loss), loss.classes) == (ToyLoss, 3)
    logits, labels = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -1.0]]), torch.tensor([0, 2])
    assert float(loss(logits, labels)) == 4.0
    assert float(grown.build("Toy", COUNTS, reach=3.0)(logits, labels)) == 8.0
    with pytest.raises(UserError, match="unknown option of the loss Toy 'raech'; did you mean reach"):
        grown.build("Toy", COUNTS, raech=3.0)
    with pytest.raises(UserError, match="did you mean Toy"):
        grown.LossSettings(loss="toi")
    with pytest.raises(UserError, match="the loss Toy has none"):
        grown.LossSettings(loss="Toy", tau=2.0)
    with pytest.raises(UserError, match=r"the loss Toy has no soft labels \(it is made for one label"):
        grown.LossSettings(loss="Toy", label_smoothing=0.1)
