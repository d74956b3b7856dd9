"""The outlines of the drawn shapes as signed distance fields.

Shapes of arrays: H and W the sides of a field in cells; distances in units of the shape's radius, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FIELD_SIDE = 256  # cells of a distance field
FIELD_REACH = 1.35  # it covers [-reach, reach] in units of the shape's radius


def _grid() -> tuple[Floats, Floats]:
    cells: Floats = np.arange(FIELD_SIDE, dtype=np.float32)
    line: Floats = ((cells + 0.5) / FIELD_SIDE * (2 * FIELD_REACH) - FIELD_REACH).astype(np.float32)
    y, x = np.meshgrid(line, line, indexing="ij")
    return x, y


def _polygon(corners: Sequence[tuple[float, float]]) -> Floats:
    """Signed distance to a closed polygon, negative inside: [H, W]."""
    x, y = _grid()
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / ey * ex)
    return np.where(inside, -nearest, nearest).astype(np.float32)


def _curve(corner: Callable[[float], tuple[float, float]], corners: int, first: float = 0.0) -> Floats:
    """A closed curve, given as a function of the angle, by so many of its points."""
    return _polygon([corner(2 * math.pi * (i + first) / corners) for i in range(corners)])


def _polar(radius: Callable[[float], float], corners: int) -> Floats:
    return _curve(lambda a: (radius(a) * math.sin(a), -radius(a) * math.cos(a)), corners)


def _disc(radius: float, x0: float = 0.0) -> Floats:
    x, y = _grid()
    return np.hypot(x - x0, y) - np.float32(radius)


def _heart(t: float) -> tuple[float, float]:
    height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return math.sin(t) ** 3, -(height + 2) / 15


def _drop(t: float) -> tuple[float, float]:
    return 0.95 * math.sin(t) * math.sin(t / 2) ** 1.6, -1.05 * math.cos(t)


def _fish() -> Floats:
    body = _polygon([(-0.25 + 0.85 * math.cos(t / 24 * math.pi), 0.52 * math.sin(t / 24 * math.pi)) for t in range(48)])
    tail = _polygon([(0.35, 0.0), (1.1, -0.6), (0.9, 0.0), (1.1, 0.6)])
    return np.minimum(body, tail)


_CROSS = [(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)]
_CROSS += [(-x, -y) for x, y in _CROSS]

_OUTLINES: dict[str, Callable[[], Floats]] = {
    "circle": lambda: _disc(0.88),
    "square": lambda: _polygon([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)]),
    "triangle": lambda: _polygon([(0, -1.05), (1.0, 0.7), (-1.0, 0.7)]),
    "diamond": lambda: _polygon([(0, -1.15), (0.6, 0), (0, 1.15), (-0.6, 0)]),
    "star": lambda: _polar(lambda a: 1.15 if round(a / (math.pi / 5)) % 2 == 0 else 0.48, 10),
    "cross": lambda: _polygon(_CROSS),
    "heart": lambda: _curve(_heart, 72),
    "moon": lambda: np.maximum(_disc(1.0, -0.1), -_disc(0.85, 0.42)),
    "arrow": lambda: _polygon(
        [(-1.1, -0.28), (0.1, -0.28), (0.1, -0.8), (1.1, 0), (0.1, 0.8), (0.1, 0.28), (-1.1, 0.28)]
    ),
    "bolt": lambda: _polygon([(0.25, -1.2), (-0.7, 0.2), (-0.1, 0.2), (-0.3, 1.2), (0.7, -0.3), (0.1, -0.3)]),
    "drop": lambda: _curve(_drop, 72, first=0.5),
    "flower": lambda: _polar(lambda a: 0.75 + 0.32 * math.cos(5 * a), 90),
    "gear": lambda: np.maximum(_polar(lambda a: 1.08 if math.sin(8 * a) > 0 else 0.78, 128), -_disc(0.33)),
    "fish": _fish,
    "house": lambda: _polygon(
        [(-0.75, 1), (-0.75, -0.1), (-1.0, -0.1), (0, -1.1), (1.0, -0.1), (0.75, -0.1), (0.75, 1)]
    ),
    "crown": lambda: _polygon(
        [(-0.95, 0.75), (-1.05, -0.75), (-0.45, 0.0), (0, -0.95), (0.45, 0.0), (1.05, -0.75), (0.95, 0.75)]
    ),
}
SHAPES = tuple(_OUTLINES)


@cache
def field(shape: int) -> Floats:
    """Signed distance to the outline in units of its radius, negative inside: [H, W]."""
    return _OUTLINES[SHAPES[shape]]()
