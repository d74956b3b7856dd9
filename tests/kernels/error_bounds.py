"""Two bounds on the errors of a call, since neither sees every fault.

:func:`assert_within_bounds` compares every element of every result with a worst case that no draw exceeds
(:mod:`rounding`); for large sums it is wide. :func:`assert_errors_as_of_eager` compares the median error over fixed draws
with that of eager PyTorch; it finds faults that are small beside the worst case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from kernel_cases import Case, Results
from rounding import Bounded, unit_roundoff

DRAWS = 30
OF_EAGER = 5.0  # programs that round alike are well within this, whatever library multiplies; a fault is far beyond it


def assert_within_bounds(case: Case, impl: str) -> None:
    """Every element of every result of ``impl`` lies where rounding can have put it."""
    results, eager = case.run(impl), case.run("reference")
    assert {name: (x.shape, x.dtype) for name, x in results.items()} == {
        name: (x.shape, x.dtype) for name, x in eager.items()
    }
    beyond = beyond_bounds(case, results, case.bounds(impl))
    assert not beyond, "; ".join(beyond)


def beyond_bounds(case: Case, results: Results, bounds: dict[str, Bounded]) -> list[str]:
    """A complaint for each result with an element further from the float64 run than its bound."""
    exact, beyond = case.run("reference", torch.float64), []
    for name, truth in exact.items():
        if name == "predictions":
            beyond += _no_best_class(results[name], bounds["logits"])
            continue
        error, bound = (results[name].double() - truth).abs(), bounds[name].error.view(truth.shape)
        bound = bound + 1e-12 * truth.abs().max()  # of the float64 run itself
        if not (error <= bound).all():  # a NaN is not
            at = int((error / bound).nan_to_num(torch.inf).argmax())
            beyond.append(f"{name}: error {error.flatten()[at]:.2e} against {bound.flatten()[at]:.2e} at {at}")
    return beyond


def _no_best_class(predictions: torch.Tensor, logits: Bounded) -> list[str]:
    """Rounding may decide between logits that are closer than their errors, and only there."""
    chosen = logits.gather(1, predictions.reshape(-1, 1))
    wrong = chosen.value + chosen.error < (logits.value - logits.error).amax(1, keepdim=True)
    return [f"predictions: not the largest logit in {int(wrong.sum())} rows"] if wrong.any() else []


@dataclass(frozen=True)
class Draws:
    """Calls of one shape that differ in their seed."""

    make: Callable[..., Case]
    shape: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()

    def case(self, seed: int) -> Case:
        return self.make(*self.shape, **dict(self.options), seed=seed)


def assert_errors_as_of_eager(draws: Draws, run: Callable[[Case], Results]) -> None:
    """The median error of each result of ``run`` is of the size of eager PyTorch's in float32."""
    beyond = beyond_eager(draws, run)
    assert not beyond, "; ".join(beyond)


def beyond_eager(draws: Draws, run: Callable[[Case], Results]) -> list[str]:
    """A complaint for each result whose median error is more than ``OF_EAGER`` times that of eager PyTorch.

    Medians, because a hidden value within rounding of relu's kink falls on the other side in one draw of very many.
    """
    allowed = _allowed(draws)
    larger = dict.fromkeys(allowed, 0)
    for seed in range(DRAWS):
        case = draws.case(seed)
        results, exact = run(case), _exact(draws, seed)
        for name, most in allowed.items():
            larger[name] += not float((results[name].double() - exact[name]).norm()) <= most  # a NaN is larger
        if max(larger.values()) > DRAWS // 2:
            break
    return [
        f"{name}: in {n} of {seed + 1} draws an error beyond {allowed[name]:.2e}"
        for name, n in larger.items()
        if n > DRAWS // 2
    ]


@lru_cache(maxsize=DRAWS)
def _exact(draws: Draws, seed: int) -> Results:
    return draws.case(seed).run("reference", torch.float64)


@lru_cache(maxsize=16)
def _allowed(draws: Draws) -> dict[str, float]:
    """Of each result, the largest norm that the median error may have."""
    errors: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    for seed in range(DRAWS):
        case, exact = draws.case(seed), _exact(draws, seed)
        results = case.run("reference", torch.float32)
        for name, truth in exact.items():
            if name != "predictions":
                stored = case.stored(name, results[name]).double()
                errors.setdefault(name, []).append(float((stored - truth).norm()))
                sizes.setdefault(name, []).append(float(truth.norm()))
    # Where eager happens to be exact (one token, one class), a rounding or two are no fault.
    rounding = 2 * unit_roundoff(torch.float32)
    return {name: OF_EAGER * _median(errors[name]) + rounding * _median(sizes[name]) for name in errors}


def _median(values: list[float]) -> float:
    return float(torch.tensor(values).median())
