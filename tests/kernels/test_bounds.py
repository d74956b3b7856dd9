"""The yardsticks of this folder measured themselves: what rounding does passes, what a fault does fails.

Faults are planted into an emulation of the fused ops (:mod:`fused_maths`), one at a time.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import attention_case
from error_bounds import Draws, beyond_bounds, beyond_eager
from fused_maths import Steps
from kernel_cases import activation_case, adapter_case, cosine_case, mlp_case
from rounding import Bounded

Change = Callable[..., Any]


class Planted(Steps):
    """Steps of which the one named ``place`` is done by ``change`` in place of what is right."""

    def __init__(self, place: str, change: Change) -> None:
        self.place, self.change = place, change
        self.met = False

    def _done(self, kind: Change, place: str, *operands: Any) -> Any:
        if place != self.place:
            return kind(place, *operands)
        self.met = True
        return self.change(*operands)

    def value(self, place: str, x: Any) -> Any:
        return self._done(super().value, place, x)

    def product(self, place: str, a: Any, b: Any) -> Any:
        return self._done(super().product, place, a, b)

    def total(self, place: str, x: Any) -> Any:
        return self._done(super().total, place, x)


def without_last_term(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[:, :-1] @ b[:-1]


def without_last_row(x: torch.Tensor) -> torch.Tensor:
    return x[:-1].sum(0)


def added_in_bfloat16(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A product whose accumulator is rounded after every 16 terms, as many as a matrix unit takes at once."""
    total = torch.zeros(a.shape[0], b.shape[1])
    for k in range(0, a.shape[1], 16):
        total = (total + a[:, k : k + 16] @ b[k : k + 16]).bfloat16().float()
    return total.as_subclass(type(a))


def rows_added_in_bfloat16(x: torch.Tensor) -> torch.Tensor:
    return added_in_bfloat16(x.T, torch.ones(len(x), 1).as_subclass(type(x)))[:, 0]


def two_swapped(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a @ b)[:, [1, 0, *range(2, b.shape[1])]]


def read_by_the_wrong_stride(x: torch.Tensor) -> torch.Tensor:
    return x.T.reshape(x.shape)


def left_out(x: Any) -> Any:
    return x * 0.0


def instead(number: float) -> Change:
    return lambda _: number


ADAPTER_FAULTS: list[tuple[str, Change]] = [
    ("d_up_weight sum", without_last_term),
    ("d_down_weight sum", without_last_term),
    ("d_up_bias", without_last_row),
    ("d_down_bias", without_last_row),
    ("down", without_last_term),
    ("up", without_last_term),
    ("d_hidden", without_last_term),
    ("d_x", without_last_term),
    ("down_bias", left_out),
    ("up_bias", left_out),
    ("ln2_bias", left_out),
    ("mean_e", left_out),
    ("mean_ex", left_out),
    ("eps", instead(1e-6)),  # where it is 1e-5
    ("ln_eps", instead(1e-6)),
    ("down", added_in_bfloat16),
    ("d_up_weight sum", added_in_bfloat16),
    ("d_down_weight sum", added_in_bfloat16),
    ("d_up_bias", rows_added_in_bfloat16),
    ("d_down_bias", rows_added_in_bfloat16),
    ("down", two_swapped),
    ("d_up_weight", read_by_the_wrong_stride),
]
ADAPTER_DRAWS = [
    Draws(adapter_case, (5, 16), (("rank", 3),)),
    Draws(adapter_case, (84, 88), (("rank", 27),)),
    Draws(adapter_case, (197, 768), (("rank", 32),)),
]

COSINE_FAULTS: list[tuple[str, Change]] = [
    ("logits", without_last_term),
    ("exponentials", lambda e: e * (torch.arange(e.shape[1]) > 0)),
    ("log_prior", left_out),
    ("bias", left_out),
    ("log_prior", lambda x: x.roll(1)),
    ("along", left_out),
    ("d_z", lambda x: x * (torch.arange(len(x)) > 0).reshape(-1, 1)),
    ("d_weight", without_last_term),
    ("logits", added_in_bfloat16),
    ("d_weight", added_in_bfloat16),
    ("logits", two_swapped),
    ("label_smoothing", instead(0.11)),
]
VARIANT = (("bias", True), ("weighted", True), ("label_smoothing", 0.1))
COSINE_DRAWS = [
    Draws(cosine_case, (5, 8, 3), VARIANT),
    Draws(cosine_case, (33, 64, 101), (*VARIANT, ("dtype", torch.bfloat16))),
    Draws(cosine_case, (64, 256, 1003), VARIANT),
]

ACTIVATION_FAULTS: list[tuple[str, str, Change]] = [
    ("quick_gelu", "factor", instead(1.7)),
    ("quick_gelu", "slope", lambda x: x * 0.0),
    ("gelu", "phi", lambda x: x.bfloat16().float()),
    ("gelu", "phi", lambda x: x + 1e-6),
]

ATTENTION_FAULTS: list[tuple[str, Change]] = [
    ("scores", without_last_term),
    ("out", without_last_term),  # the last key
    ("d_share", without_last_term),
    ("d_q", without_last_term),
    ("d_k", without_last_term),  # the last query
    ("d_v", without_last_term),
    ("delta", left_out),
    ("scale", instead(0.3)),
    ("total", lambda x: x * (1.0 + 2.0**-12)),
    ("lse", lambda x: x.bfloat16().float()),
    ("sees", lambda x: torch.ones_like(x).tril(1)),  # one token ahead
    ("first", instead(0)),
    ("turned back", lambda x: x * -1.0),
    ("out", added_in_bfloat16),
    ("d_k", added_in_bfloat16),
    ("d_v", added_in_bfloat16),
    ("d_q", two_swapped),
]
ATTENTION_DRAWS = [
    Draws(attention_case, (1, tokens, heads, width), (("patches", tokens - 1), ("first", 1), ("causal", True)))
    for tokens, heads, width in ((5, 2, 8), (33, 1, 16), (197, 1, 64))
]


MLP_FAULTS: list[tuple[str, Change]] = [
    ("pre", without_last_term),
    ("out", without_last_term),
    ("d_hidden", without_last_term),
    ("d_x", without_last_term),
    ("in_bias", left_out),
    ("out_bias", left_out),
    ("residual", left_out),
    ("scale", left_out),
    ("scale", lambda x: x.roll(1)),
    ("factor", instead(1.6)),  # 1.7 is less than bfloat16 can show
    ("slope", left_out),
    ("pre", two_swapped),
    ("d_x", two_swapped),
]
MLP_DRAWS = [
    Draws(mlp_case, (5, 16), (("hidden", 24), ("scaled", True), ("dtype", torch.bfloat16))),
    Draws(mlp_case, (67, 96), (("hidden", 160), ("scaled", True), ("dtype", torch.bfloat16))),
]


def named(fault: Any) -> str:
    if isinstance(fault, Draws):
        return "x".join(str(n) for n in fault.shape)
    return getattr(fault, "__name__", fault) if not isinstance(fault, list) else ""


def test_a_sum_can_lose_what_its_bound_allows() -> None:
    """One, then what is too small to be added to it: the worst order there is."""
    terms = torch.tensor([1.0, *[0.99 * 2.0**-24] * 999])
    total = torch.tensor(0.0)
    for term in terms:
        total = total + term
    bounded = Bounded.exact(terms).sum(0)
    error = (total.double() - bounded.value).abs()
    assert 0.9 * bounded.error < error <= bounded.error
    assert (Bounded.exact(terms.reshape(1, -1)) @ torch.ones(1000, 1)).error == pytest.approx(float(bounded.error))


def test_errors_of_operands_reach_the_result() -> None:
    """Against numbers that are off by as much as theirs may be, through each operation."""
    x, y = torch.tensor([[0.7, -1.3, 2.1]]).double(), torch.tensor([[1.9, 0.4, -0.8]]).double()
    off = torch.tensor([[1e-3, -1e-3, 1e-3]]).double()
    operations: list[Callable[[Any, Any], Any]] = [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: 1 / b - a,
        lambda a, b: a @ b.T,
        lambda a, b: (a * a + 1).sqrt().log() + b.exp(),
        lambda a, b: a.relu() + b.sum(1, keepdim=True),
    ]
    for operation in operations:
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            bounded = operation(Bounded(x, off.abs()), Bounded(y, off.abs()))
            moved = operation(x + signs[0] * off, y + signs[1] * off)
            assert ((moved - bounded.value).abs() <= bounded.error).all()
            torch.testing.assert_close(bounded.value, operation(x, y))


@pytest.mark.parametrize("impl", ["native", "triton"])
@pytest.mark.parametrize("draws", [*ADAPTER_DRAWS[:2], *COSINE_DRAWS[:2], *ATTENTION_DRAWS], ids=named)
def test_what_is_written_out_is_the_op(draws: Draws, impl: str) -> None:
    """Its values, computed without autograd and another way round, are those of the float64 run."""
    case = draws.case(1)
    bounds = case.bounds(impl)
    for name, truth in case.run("reference", torch.float64).items():
        if name != "predictions":
            torch.testing.assert_close(bounds[name].value.view(truth.shape), truth, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("draws", [*ADAPTER_DRAWS, *COSINE_DRAWS, *ATTENTION_DRAWS], ids=named)
def test_what_rounding_does_passes(draws: Draws) -> None:
    case = draws.case(0)
    assert not beyond_bounds(case, case.emulated(Steps()), case.bounds("native"))
    assert not beyond_eager(draws, lambda case: case.emulated(Steps()))


def found(draws: Draws, place: str, change: Change) -> bool:
    """Whether the fault is seen by the bounds on one call, or else over many draws."""
    case, steps = draws.case(0), Planted(place, change)
    beyond = beyond_bounds(case, case.emulated(steps), case.bounds("native"))
    assert steps.met
    return bool(beyond or beyond_eager(draws, lambda case: case.emulated(steps)))


@pytest.mark.parametrize("draws", ADAPTER_DRAWS, ids=named)
@pytest.mark.parametrize(("place", "change"), ADAPTER_FAULTS, ids=named)
def test_faults_of_the_adapter_are_found(draws: Draws, place: str, change: Change) -> None:
    assert found(draws, place, change)


@pytest.mark.parametrize(("place", "change"), ADAPTER_FAULTS, ids=named)
def test_faults_of_the_adapter_are_found_in_bfloat16(place: str, change: Change) -> None:
    if "eps" in place:
        change = instead(1e-3)  # a hundred times too large: ten times too small is less than these results can show
    assert found(Draws(adapter_case, (84, 88), (("rank", 27), ("dtype", torch.bfloat16))), place, change)


@pytest.mark.parametrize("draws", COSINE_DRAWS, ids=named)
@pytest.mark.parametrize(("place", "change"), COSINE_FAULTS, ids=named)
def test_faults_of_the_classifier_are_found(draws: Draws, place: str, change: Change) -> None:
    assert found(draws, place, change)


@pytest.mark.parametrize("draws", ATTENTION_DRAWS, ids=named)
@pytest.mark.parametrize(("place", "change"), ATTENTION_FAULTS, ids=named)
def test_faults_of_attention_are_found(draws: Draws, place: str, change: Change) -> None:
    assert found(draws, place, change)


@pytest.mark.parametrize(("kind", "place", "change"), ACTIVATION_FAULTS)
def test_faults_of_the_activations_are_found(kind: str, place: str, change: Change) -> None:
    case = activation_case(kind, 1003)
    assert not beyond_bounds(case, case.emulated(Steps()), case.bounds("native"))
    assert beyond_bounds(case, case.emulated(Planted(place, change)), case.bounds("native"))


@pytest.mark.parametrize("draws", MLP_DRAWS, ids=named)
def test_what_rounding_does_to_the_mlp_passes(draws: Draws) -> None:
    case = draws.case(0)
    assert not beyond_bounds(case, case.emulated(Steps()), case.bounds("triton"))
    for name, truth in case.run("reference", torch.float64).items():
        torch.testing.assert_close(case.bounds("triton")[name].value.view(truth.shape), truth, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("draws", MLP_DRAWS, ids=named)
@pytest.mark.parametrize(("place", "change"), MLP_FAULTS, ids=named)
def test_faults_of_the_mlp_are_found(draws: Draws, place: str, change: Change) -> None:
    assert found(draws, place, change)
