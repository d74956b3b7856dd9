"""A small model of rounding: numbers that carry a bound on their error, for every order of summation and every draw.

A :class:`Bounded` holds exact values (float64) and, element by element, how far a program may be from them that computes
the same expression in float32 (or rounds to a shorter dtype on its way). The bound follows from the standard model of
floating point, fl(a op b) = (a op b)(1 + d) with \\|d\\| <= u, u the unit roundoff (2^-24 for float32):

- an operation adds u times the size of its result to what the errors of its operands make of it; the instructions by which
  a GPU divides, takes roots and exponentials, a few times that (PTX ISA, floating-point instructions);
- a sum of n terms, in whatever order and with whatever partial sums, adds gamma(n) = n u / (1 - n u) times the sum of the
  sizes of its terms (Higham, Accuracy and Stability of Numerical Algorithms, chapters 3 and 4);
- errors never cancel. So a bound is many times what rounding does on average; what it is too wide to see in large
  sums, comparisons over many draws see (``assert_errors_as_of_eager``).

Nothing here knows the ops: :mod:`fused_maths` writes them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

U = 2.0**-24
FOLDED = 4  # factors may be multiplied in before a sum or after it, addends brought in early: a few roundings a term
DIVISION = (
    4  # roundings: a GPU's quick division (div.full) and square root are good to two and one units in the last place
)
ROOT = 2
EXP_ULPS = 4  # the native exponential is good to 1.5 units in the last place, libraries' to 1 or 2; two roundings each
EXP_RANGE = 1.5  # a GPU's is 2^(x log2 e), that product and log2 e rounded to float32: relative to the size of x
PHI_ERROR = 1e-7  # absolute; the native fit of erf is good to 1.3e-7, and Phi is half of it


def gamma(terms: int) -> float:
    """Relative to the sum of the sizes of its terms, what rounding can do to a sum of ``terms`` terms."""
    n = (terms + FOLDED) * U
    return n / (1.0 - n)


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2.0


@dataclass
class Bounded:
    """Exact values and how far from each a computed one may be; operations are those of a tensor."""

    value: torch.Tensor  # float64
    error: torch.Tensor  # float64, of the same shape, not negative

    @staticmethod
    def exact(x: Any) -> Bounded:
        """A number or tensor as it is; a Python float is rounded to float32 before a program sees it."""
        if isinstance(x, Bounded):
            return x
        if isinstance(x, torch.Tensor):
            return Bounded(x.detach().double(), torch.zeros_like(x, dtype=torch.float64))
        value = torch.tensor(float(x), dtype=torch.float64)
        return Bounded(value, value.abs() * (0.0 if isinstance(x, int) else U))

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def most(self) -> torch.Tensor:
        """The largest size a computed value can have."""
        return self.value.abs() + self.error

    @property
    def T(self) -> Bounded:
        return Bounded(self.value.T, self.error.T)

    def __getitem__(self, at: Any) -> Bounded:
        return Bounded(self.value[at], self.error[at])

    def reshape(self, *shape: Any) -> Bounded:
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape))

    def gather(self, dim: int, index: torch.Tensor) -> Bounded:
        return Bounded(self.value.gather(dim, index), self.error.gather(dim, index))

    def __add__(self, other: Any) -> Bounded:
        b = Bounded.exact(other)
        return _result(self.value + b.value, self.error + b.error)

    def __sub__(self, other: Any) -> Bounded:
        return self + -Bounded.exact(other)

    def __neg__(self) -> Bounded:
        return Bounded(-self.value, self.error)

    def __mul__(self, other: Any) -> Bounded:
        b = Bounded.exact(other)
        return _result(self.value * b.value, self.value.abs() * b.error + self.error * b.most)

    def __truediv__(self, other: Any) -> Bounded:
        b = Bounded.exact(other)
        quotient = self.value / b.value
        error = (self.error + quotient.abs() * b.error) / (b.value.abs() - b.error).clamp_min(0.0)
        return _result(quotient, error, DIVISION)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> Bounded:
        return Bounded.exact(other) - self

    def __rtruediv__(self, other: Any) -> Bounded:
        return Bounded.exact(other) / self

    def __matmul__(self, other: Any) -> Bounded:
        b = Bounded.exact(other)
        largest = self.most @ b.most * (1.0 + gamma(self.shape[-1]))
        return Bounded(self.value @ b.value, largest - self.value.abs() @ b.value.abs())

    def sum(self, dim: int, keepdim: bool = False) -> Bounded:
        error = self.error.sum(dim, keepdim) + gamma(self.shape[dim]) * self.most.sum(dim, keepdim)
        return Bounded(self.value.sum(dim, keepdim), error)

    def sqrt(self) -> Bounded:
        root = self.value.sqrt()
        error = self.error / (root + (self.value - self.error).clamp_min(0.0).sqrt()).clamp_min(1e-300)
        return _result(root, error, ROOT)

    def exp(self) -> Bounded:
        e = self.value.exp()
        error = e * torch.expm1(self.error + EXP_RANGE * U * self.most)
        # The exponentials stop at e^-87, or go on into the subnormal numbers: an error without a size of its own.
        return Bounded(e, error + EXP_ULPS * U * (e + error) + 2.0**-125)

    def log(self) -> Bounded:
        return _result(self.value.log(), -torch.log1p(-self.error / self.value) + U)

    def phi(self) -> Bounded:
        """The normal distribution function; its slope is at most 0.4."""
        value = torch.special.ndtr(self.value)
        return Bounded(value, PHI_ERROR + 0.4 * self.error + EXP_ULPS * U * value)

    def relu(self) -> Bounded:
        """Where the sign is certain the result is exact or has the error of its operand; else it is between both."""
        return Bounded(self.value.relu(), torch.where(self.value < -self.error, 0.0, self.error))

    def where_positive(self, x: Bounded) -> Bounded:
        """``x`` where this is above zero, else 0: the whole of it is in doubt where rounding can turn the sign."""
        passes, doubtful = self.value > 0.0, (self.value.abs() <= self.error) & (self.error > 0.0)
        error = torch.where(doubtful, x.most, torch.where(passes, x.error, 0.0))
        return Bounded(torch.where(passes, x.value, 0.0), error)

    def rounded(self, dtype: torch.dtype) -> Bounded:
        """Stored in ``dtype``; below its normal numbers the error no longer shrinks with the value."""
        if dtype in (torch.float32, torch.float64):
            return self
        return Bounded(
            self.value, self.error + unit_roundoff(dtype) * self.most.clamp_min(torch.finfo(dtype).smallest_normal)
        )

    def either(self, other: Bounded) -> Bounded:
        """The same number by another way of computing it; programs may take either."""
        return Bounded(self.value, torch.maximum(self.error, other.error))


def _result(value: torch.Tensor, error: torch.Tensor, roundings: int = 1) -> Bounded:
    """Of one operation, whose operands' errors make ``error`` of the result: rounding comes on top."""
    return Bounded(value, error + roundings * U * (value.abs() + error))
