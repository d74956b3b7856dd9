"""The words of declarations: the range of a number, and when a setting has an effect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto

MOST = 2**63 - 1  # what torch, NumPy and DALI hold in 64 bits with a sign
MOST_THREADS = 1024
MOST_PIXELS = 65535  # a side of the largest JPEG


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``: ``momentum: Annotated[float, Between(0, 1, "[)")]``.

    Whole numbers without an upper end go up to what 64 bits hold.

    Attributes:
        ends: whether each end belongs to the interval, as in mathematics: "[]", "[)", "(]", "()".
        said: what was expected, for the message, where the interval alone would not explain it.
    """

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"
    said: str = ""

    def refusal(self, value: float) -> str | None:
        """Why ``value``, an int or a float, is refused; None where it is in the interval."""
        if isinstance(value, float) and not math.isfinite(value):
            return "expected a finite number"
        whole, limit = isinstance(value, int), MOST if isinstance(value, int) else math.inf
        if self._holds(value) and abs(value) <= limit:
            return None
        if self.said and abs(value) <= limit:
            return f"expected {self.said}"
        if whole and (math.isfinite(self.high) or abs(value) > limit):
            low, high = max(self.low, -MOST), min(self.high, MOST)
            return f"expected a whole number from {low:.0f} to {'2^63 - 1' if high == MOST else f'{high:.0f}'}"
        if math.isfinite(self.high):
            return f"expected a number in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"
        if self.ends[0] == "(" or (whole and self.low == 1):
            return f"expected more than {self.low - whole:g}"
        return "must not be negative" if self.low == 0 else f"expected {self.low:g} or more"

    def _holds(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below


SEED = Between(0, MOST)
SIZE = Between(1, 2**31 - 1)  # of bottlenecks and prompts: products of three such sizes stay far from overflowing


@dataclass(frozen=True)
class Acts:
    """When a setting has an effect: ``Annotated[int, Acts("LoRA's own width (tuner lora)", lambda tuner: "lora" in tuner)]``.

    Attributes:
        meaning: what the setting is and what it goes with, for the message.
        when: whether it acts; its parameters are names of settings.
    """

    meaning: str
    when: Callable[..., bool]


class May(Flag):
    """What a setting may do beyond one process of one run: ``threads: Annotated[int | None, May.CHANGE | May.DIFFER]``.

    A run's identity is without such settings: but for those that grow, they change nothing that is computed but rounding.
    """

    CHANGE = auto()  # have another value in a resumed run
    GROW = auto()  # have a larger value in a resumed run, which is another one from there on, and says so
    DIFFER = auto()  # have another value in another process of the run, perhaps on another machine


@dataclass(frozen=True)
class NamesPlace:
    """A text that names a file or folder, a URL of one, or a pattern of shards (``train-{00..99}.tar``).

    Files and folders are named from the root in a run's ``config.json``.
    """

    def is_local(self, value: str) -> bool:
        """Whether ``value`` is a path on this machine."""
        return "://" not in value and not value.endswith(".tar")


@dataclass(frozen=True)
class NamesFile:
    """A text that may name a file: what stands between ``prefix`` and the end, where it ends with ``suffix``.

    Such files are named from the root in a run's ``config.json``, and count without their folders in its identity.
    """

    prefix: str = ""
    suffix: str = ""

    def names_one(self, value: str) -> bool:
        """Whether ``value`` has the form of a file's name."""
        return value.startswith(self.prefix) and value.endswith(self.suffix)

    def renamed(self, value: str, change: Callable[[str], str]) -> str:
        """``value`` with its file's name changed; as it is where it names none."""
        return self.prefix + change(value[len(self.prefix) :]) if self.names_one(value) else value
