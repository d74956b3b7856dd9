"""Drawn images of "striped red star" kinds: what the shipped CLIP learned from, and what ``shapes_lt`` is made of.

An image is a pure function of (seed, split, kind, number). Its randomness comes from the raw bits of NumPy's Philox, a
counter-based generator whose raw stream is fixed across NumPy versions, and every pixel is NumPy arithmetic, so no drawing
library's version changes an image. A kind is a texture, a colour and a shape: 6 x 10 x 16 = 960 kinds.

Shapes of arrays: S the image's side, H and W the sides of a part of it, all in pixels; floats in [0, 1] are colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlift.data.datasets.outlines import FIELD_REACH, FIELD_SIDE, SHAPES, Floats, field

SIDE = 64  # pixels; the shipped CLIP sees 48, so that random resized crops have something to crop
TEXTURES = ("plain", "striped", "dotted", "checkered", "hollow", "ringed")
COLOURS = {
    "red": (0.86, 0.12, 0.14),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.97, 0.88, 0.12),
    "green": (0.15, 0.62, 0.20),
    "cyan": (0.15, 0.82, 0.86),
    "blue": (0.13, 0.28, 0.85),
    "purple": (0.52, 0.16, 0.70),
    "pink": (0.97, 0.50, 0.72),
    "brown": (0.45, 0.26, 0.10),
    "white": (0.97, 0.97, 0.97),
}
_PALETTE: Floats = np.array(list(COLOURS.values()), dtype=np.float32)
SPLITS = ("pretrain", "validate", "train", "test")  # the first two belong to the shipped CLIP


def kind_name(kind: int) -> str:
    """Kind number -> "texture colour shape", e.g. "striped red star"."""
    texture, colour, shape = _parts(kind)
    return f"{TEXTURES[texture]} {tuple(COLOURS)[colour]} {SHAPES[shape]}"


def _parts(kind: int) -> tuple[int, int, int]:
    rest, shape = divmod(kind, len(SHAPES))
    texture, colour = divmod(rest, len(COLOURS))
    return texture, colour, shape


NUM_KINDS = len(TEXTURES) * len(COLOURS) * len(SHAPES)
KIND_NAMES = tuple(kind_name(kind) for kind in range(NUM_KINDS))


@dataclass(frozen=True)
class Scene:
    """How hard the images are, and in what light.

    ``strength`` is the range from which each image's nuisance strength is drawn evenly: 0 is a clean upright image,
    1 has strong clutter, rotation, occlusion, noise and colour shift. ``light`` multiplies red, green and blue.
    """

    strength: tuple[float, float]
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


PRETRAIN = Scene(strength=(0.0, 1.0))


class _Draws:
    """Uniform numbers of one image, taken one after another from Philox's raw bits."""

    def __init__(self, seed: int, split: str, kind: int, number: int) -> None:
        self._bits = np.random.Philox(key=[seed, (SPLITS.index(split) << 56) | (kind << 32) | number])
        self._uniforms = iter((self._bits.random_raw(160) >> np.uint64(11)) * 2.0**-53)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(next(self._uniforms))

    def below(self, count: int) -> int:
        return int(next(self._uniforms) * count)

    def colour(self) -> Floats:
        return np.array([self.between(0.05, 0.95) for _ in range(3)], dtype=np.float32)

    def grain(self, *shape: int) -> Floats:
        """Noise of mean 0 and standard deviation 1: the sum of four uniform bytes."""
        count = math.prod(shape)
        octets = self._bits.random_raw((count + 1) // 2).view(np.uint8)[: 4 * count].reshape(-1, 4)
        total = octets.view(np.uint32)[:, 0]
        # Two 16-bit lanes added pairwise is cheaper than a sum over the short axis.
        lanes = (total & 0x00FF00FF) + ((total >> 8) & 0x00FF00FF)
        summed = ((lanes & 0xFFFF) + (lanes >> 16)).astype(np.float32)
        return ((summed - 510.0) * np.float32(1 / 147.8)).reshape(shape)


_LINE: Floats = np.arange(SIDE, dtype=np.float32)
_MOTTLE_CELLS = 5
# Cosine weights that spread a coarse row of cells over the image's pixels: [S, cells].
_SPREAD: Floats = np.maximum(
    0,
    np.cos(np.clip(_LINE[:, None] / (SIDE - 1) * (_MOTTLE_CELLS - 1) - np.arange(_MOTTLE_CELLS), -1, 1) * math.pi) + 1,
).astype(np.float32)
_SPREAD /= _SPREAD.sum(axis=1, keepdims=True)


def _background(draws: _Draws, strength: float) -> Floats:
    """A gradient between two colours with soft blotches: [S, S, 3]."""
    colours = draws.colour(), draws.colour()
    saturation = draws.between(0.15, 0.3 + 0.5 * strength)
    first, second = (colour + (1 - saturation) * (colour.mean() - colour) for colour in colours)
    second = first + (0.3 + 0.5 * strength) * (second - first)
    angle = draws.between(0, 2 * math.pi)
    slope = (_LINE - SIDE / 2) / SIDE
    ramp = 0.5 + math.cos(angle) * slope[None, :] + math.sin(angle) * slope[:, None]  # [S, S]
    blotches = draws.grain(_MOTTLE_CELLS, _MOTTLE_CELLS * 3)
    blotches = (_SPREAD @ blotches).reshape(SIDE, _MOTTLE_CELLS, 3)
    blotches = np.matmul(_SPREAD, blotches)  # [S, S, 3]
    shade = np.float32(0.03 + 0.10 * strength) * blotches
    return first + ramp.astype(np.float32)[..., None] * (second - first) + shade


def _pattern(texture: str, along: Floats, across: Floats, depth: Floats, period: float) -> Floats | None:
    """Share of the second tone at each pixel, in [0, 1]: [H, W]; None where the texture has one tone."""
    wave = np.float32(2 * math.pi / period)
    edge = np.float32(period / 4)  # makes the transition about a pixel wide
    if texture == "striped":
        return np.clip(0.5 + edge * np.sin(along * wave), 0, 1)
    if texture == "dotted":
        return np.clip(0.5 + edge * (np.cos(along * wave) + np.cos(across * wave) - 0.55), 0, 1)
    if texture == "checkered":
        half = wave * np.float32(0.7)
        return np.clip(0.5 + 2 * edge * np.sin(along * half) * np.sin(across * half), 0, 1)
    if texture == "ringed":
        return np.clip(0.5 + edge * np.sin(depth * wave), 0, 1)
    return None


def _paint(
    canvas: Floats, kind: int, draws: _Draws, x0: float, y0: float, radius: float, turn: float, hue: float
) -> None:
    """Draws one object over the canvas [S, S, 3], in place; x0, y0 and radius in pixels, turn in radians."""
    texture, colour_number, shape = _parts(kind)
    reach = FIELD_REACH * radius
    left, right = max(0, int(x0 - reach)), min(SIDE, int(x0 + reach) + 2)
    top, bottom = max(0, int(y0 - reach)), min(SIDE, int(y0 + reach) + 2)
    x, y = _LINE[None, left:right] - np.float32(x0), _LINE[top:bottom, None] - np.float32(y0)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    along, across = x * cos + y * sin, y * cos - x * sin  # [H, W], the object's own axes
    to_cell = np.float32(FIELD_SIDE / (2 * reach))
    column = np.clip(along * to_cell + FIELD_SIDE / 2, 0, FIELD_SIDE - 1).astype(np.intp)
    row = np.clip(across * to_cell + FIELD_SIDE / 2, 0, FIELD_SIDE - 1).astype(np.intp)
    depth = field(shape)[row, column] * np.float32(radius)  # [H, W], pixels, negative inside
    cover = np.clip(0.5 - depth, 0, 1)
    if TEXTURES[texture] == "hollow":
        cover *= np.clip(0.5 + depth + max(2.2, 0.22 * radius), 0, 1)
    shift = np.array([draws.between(-hue, hue) for _ in range(3)], dtype=np.float32)
    ink: Floats = np.clip(_PALETTE[colour_number] + shift, 0, 1)
    tone = _pattern(TEXTURES[texture], along, across, depth, max(5.0, draws.between(0.42, 0.55) * radius))
    darker = draws.between(0, 1) < 0.5 or colour_number == len(COLOURS) - 1  # white has no lighter shade
    if tone is not None:
        second = 0.22 * ink if darker else 0.2 * ink + 0.78
        ink = ink + tone[..., None] * (second - ink)
    part = canvas[top:bottom, left:right]
    part += cover[..., None] * (ink - part)


def _bars(canvas: Floats, draws: _Draws, x0: float, y0: float, radius: float, strength: float) -> None:
    """Up to two straight bars in front of the object, in place."""
    for _ in range(draws.below(1 + min(2, round(2.4 * strength)))):
        angle = draws.between(0, math.pi)
        away = draws.between(-0.8, 0.8) * radius
        half = draws.between(0.06, 0.06 + 0.14 * strength) * radius
        cos, sin = math.cos(angle), math.sin(angle)
        distance = np.abs((_LINE - x0)[None, :] * cos + (_LINE - y0)[:, None] * sin - away) - half
        canvas += np.clip(0.5 - distance, 0, 1).astype(np.float32)[..., None] * (draws.colour() - canvas)


def draw(seed: int, split: str, kind: int, number: int, scene: Scene) -> NDArray[np.uint8]:
    """Image ``number`` of a kind, as RGB bytes [S, S, 3]; a pure function of its arguments.

    ``seed`` below 2**64, ``split`` one of ``SPLITS``, ``kind`` below ``NUM_KINDS``, ``number`` below 2**32.
    """
    draws = _Draws(seed, split, kind, number)
    strength = draws.between(*scene.strength)
    canvas = _background(draws, strength)
    radius = draws.between(20 - 7 * strength, 23)
    room = 4 + 5 * strength
    x0, y0 = (SIDE / 2 + draws.between(-room, room) for _ in range(2))
    for _ in range(draws.below(1 + round(5 * strength))):
        place = draws.between(0, 2 * math.pi)
        away = draws.between(0.9, 1.5) * radius
        x, y = x0 + away * math.cos(place), y0 + away * math.sin(place)
        small = radius * draws.between(0.25, 0.45)
        _paint(canvas, draws.below(NUM_KINDS), draws, x, y, small, draws.between(0, 2 * math.pi), 0.15)
    turn = draws.between(-1, 1) * math.radians(10 + 50 * strength)
    _paint(canvas, kind, draws, x0, y0, radius, turn, 0.03 + 0.09 * strength)
    _bars(canvas, draws, x0, y0, radius, strength)
    gain = [light * draws.between(1 - 0.3 * strength, 1 + 0.1 * strength) for light in scene.light]
    contrast = draws.between(1 - 0.5 * strength, 1)
    haze = draws.between(0.2, 0.8)
    canvas = (haze + contrast * (canvas - haze)) * np.array(gain, dtype=np.float32)
    canvas += np.float32(draws.between(0.01, 0.02 + 0.12 * strength)) * draws.grain(SIDE, SIDE, 3)
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
