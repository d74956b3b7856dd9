"""Logits of toy classifiers, and what an accumulator counts of them."""

from __future__ import annotations

import torch

from fastlift.evaluation.accumulator import ClassificationAccumulator


def counts_of(logits: torch.Tensor, labels: torch.Tensor) -> ClassificationAccumulator:
    accumulator = ClassificationAccumulator(logits.shape[1])
    accumulator.update(logits, labels)
    return accumulator


def drawn(samples: int, classes: int, seed: int = 0, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator)
    logits[torch.arange(samples), labels] += sharpness
    return logits, labels


def logits_for(predictions: list[int], classes: int, confidence: float = 0.9) -> torch.Tensor:
    """Logits whose softmax gives ``confidence`` to the prediction and shares the rest equally."""
    probabilities = torch.full((len(predictions), classes), (1 - confidence) / (classes - 1))
    probabilities[torch.arange(len(predictions)), torch.tensor(predictions)] = confidence
    return probabilities.log()
