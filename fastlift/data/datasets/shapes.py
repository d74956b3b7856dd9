"""The embedded data set ``shapes_lt``: drawn pictures of "striped red star" kinds, long-tailed, written once to a cache.

A picture is a pure function of (seed, split, kind, number). Its randomness comes from the raw bits of NumPy's Philox, a
counter-based generator whose raw stream is fixed across NumPy versions, and every pixel is NumPy arithmetic, so no drawing
library's version changes a picture. A kind is a texture, a colour and a shape: 6 x 10 x 16 = 960 kinds. The small shipped
CLIP learned from all of them (``scripts/pretrain_clip.py``, the ``PRETRAIN`` scene); ``shapes_lt`` takes 64 of them and
shows them in another light and in harder scenes (``SHAPES_LT``), so that there is something to learn.

Shapes of arrays: S the picture's side, H and W a window's sides, all in pixels; floats in [0, 1] are colours.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # what, done, total

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

# ---------------------------------------------------------------------------------------------- outlines

_FIELD_SIDE = 256  # cells of a distance field
_FIELD_REACH = 1.35  # it covers [-reach, reach] in units of the shape's radius


def _grid() -> tuple[Floats, Floats]:
    cells: Floats = np.arange(_FIELD_SIDE, dtype=np.float32)
    line: Floats = ((cells + 0.5) / _FIELD_SIDE * (2 * _FIELD_REACH) - _FIELD_REACH).astype(np.float32)
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


def _polar(radius: Callable[[float], float], corners: int) -> Floats:
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return _polygon([(radius(a) * math.sin(a), -radius(a) * math.cos(a)) for a in angles])


def _disc(radius: float, x0: float = 0.0, y0: float = 0.0) -> Floats:
    x, y = _grid()
    return np.hypot(x - x0, y - y0) - np.float32(radius)


def _heart() -> Floats:
    def corner(t: float) -> tuple[float, float]:
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        return math.sin(t) ** 3, -(height + 2) / 15

    return _polygon([corner(2 * math.pi * i / 72) for i in range(72)])


def _drop() -> Floats:
    def corner(t: float) -> tuple[float, float]:
        return 0.95 * math.sin(t) * math.sin(t / 2) ** 1.6, -1.05 * math.cos(t)

    return _polygon([corner(2 * math.pi * (i + 0.5) / 72) for i in range(72)])


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
    "heart": _heart,
    "moon": lambda: np.maximum(_disc(1.0, -0.1), -_disc(0.85, 0.42)),
    "arrow": lambda: _polygon(
        [(-1.1, -0.28), (0.1, -0.28), (0.1, -0.8), (1.1, 0), (0.1, 0.8), (0.1, 0.28), (-1.1, 0.28)]
    ),
    "bolt": lambda: _polygon([(0.25, -1.2), (-0.7, 0.2), (-0.1, 0.2), (-0.3, 1.2), (0.7, -0.3), (0.1, -0.3)]),
    "drop": _drop,
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
def _field(shape: int) -> Floats:
    """Signed distance to the outline in units of its radius, negative inside: [H, W]."""
    return _OUTLINES[SHAPES[shape]]()


# ---------------------------------------------------------------------------------------------- kinds


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
    """How hard the pictures are, and in what light.

    ``strength`` is the range from which each picture's nuisance strength is drawn evenly: 0 is a clean upright picture,
    1 has strong clutter, rotation, occlusion, noise and colour shift. ``light`` multiplies red, green and blue.
    """

    strength: tuple[float, float]
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)


PRETRAIN = Scene(strength=(0.0, 1.0))


# ---------------------------------------------------------------------------------------------- drawing


class _Draws:
    """Uniform numbers of one picture, taken one after another from Philox's raw bits."""

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
# Cosine weights that spread a coarse row of cells over the picture's pixels: [S, cells].
_SPREAD: Floats = np.maximum(
    0,
    np.cos(np.clip(_LINE[:, None] / (SIDE - 1) * (_MOTTLE_CELLS - 1) - np.arange(_MOTTLE_CELLS), -1, 1) * math.pi) + 1,
).astype(np.float32)
_SPREAD /= _SPREAD.sum(axis=1, keepdims=True)


def _background(draws: _Draws, strength: float) -> Floats:
    """A gradient between two colours with soft blotches: [S, S, 3]."""
    first, second = draws.colour(), draws.colour()
    saturation = draws.between(0.15, 0.3 + 0.5 * strength)
    first, second = (
        first + (1 - saturation) * (first.mean() - first),
        second + (1 - saturation) * (second.mean() - second),
    )
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


def _second_tone(colour: Floats, white: bool, pick: float) -> Floats:
    """The other colour of a texture: a light or a dark shade of the first."""
    if white or pick < 0.5:
        return 0.22 * colour
    return 0.2 * colour + 0.78


def _paint(
    canvas: Floats, kind: int, draws: _Draws, x0: float, y0: float, radius: float, turn: float, hue: float
) -> None:
    """Draws one object over the canvas [S, S, 3], in place; x0, y0 and radius in pixels, turn in radians."""
    texture, colour_number, shape = _parts(kind)
    reach = _FIELD_REACH * radius
    left, right = max(0, int(x0 - reach)), min(SIDE, int(x0 + reach) + 2)
    top, bottom = max(0, int(y0 - reach)), min(SIDE, int(y0 + reach) + 2)
    x, y = _LINE[None, left:right] - np.float32(x0), _LINE[top:bottom, None] - np.float32(y0)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    along, across = x * cos + y * sin, y * cos - x * sin  # [H, W], the object's own axes
    to_cell = np.float32(_FIELD_SIDE / (2 * reach))
    column = np.clip(along * to_cell + _FIELD_SIDE / 2, 0, _FIELD_SIDE - 1).astype(np.intp)
    row = np.clip(across * to_cell + _FIELD_SIDE / 2, 0, _FIELD_SIDE - 1).astype(np.intp)
    depth = _field(shape)[row, column] * np.float32(radius)  # [H, W], pixels, negative inside
    cover = np.clip(0.5 - depth, 0, 1)
    if TEXTURES[texture] == "hollow":
        cover *= np.clip(0.5 + depth + max(2.2, 0.22 * radius), 0, 1)
    shift = np.array([draws.between(-hue, hue) for _ in range(3)], dtype=np.float32)
    first = np.clip(_PALETTE[colour_number] + shift, 0, 1)
    ink: Floats = first
    tone = _pattern(TEXTURES[texture], along, across, depth, max(5.0, draws.between(0.42, 0.55) * radius))
    second = _second_tone(first, colour_number == len(COLOURS) - 1, draws.between(0, 1))
    if tone is not None:
        ink = first + tone[..., None] * (second - first)
    window = canvas[top:bottom, left:right]
    window += cover[..., None] * (ink - window)


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
    """Picture ``number`` of a kind, as RGB bytes [S, S, 3]; a pure function of its arguments.

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


# ---------------------------------------------------------------------------------------------- shapes_lt

VERSION = 3  # of the pictures and lists: part of the folder's name, so that a change of the program makes a new set
SEED = 2026
LARGEST, SMALLEST = 200, 2  # training pictures of the first and the last class by size
TEST_PER_CLASS = 24
NUM_CLASSES = 64
SHAPES_LT = Scene(strength=(0.5, 1.1), light=(0.86, 0.57, 0.38))  # crowded, noisy and at dusk
# Classes near each other: fewer colours, which dusk brings closer, and fewer shapes, so that classes share their parts.
_NEAR_COLOURS = ("red", "orange", "pink", "brown", "purple")
_NEAR_SHAPES = ("circle", "square", "triangle", "star", "heart", "drop", "flower", "gear")


def _choose_kinds() -> tuple[int, ...]:
    """The kinds of ``shapes_lt``, in label order: a seeded draw from the near ones."""
    names = (name.split() for name in KIND_NAMES)
    near = [k for k, (_, colour, shape) in enumerate(names) if colour in _NEAR_COLOURS and shape in _NEAR_SHAPES]
    order = np.argsort(np.random.Philox(key=[SEED, 0]).random_raw(len(near)))
    return tuple(near[i] for i in order[:NUM_CLASSES])


def _long_tail() -> tuple[int, ...]:
    """Training pictures of each class: ``LARGEST`` down to ``SMALLEST`` in equal ratios, in an order that labels do not tell."""
    ratio = SMALLEST / LARGEST
    falling = [int(LARGEST * ratio ** (rank / (NUM_CLASSES - 1)) + 1e-9) for rank in range(NUM_CLASSES)]
    ranks = np.argsort(np.random.Philox(key=[SEED, 1]).random_raw(NUM_CLASSES))
    return tuple(falling[rank] for rank in ranks)


SHAPES_KINDS = _choose_kinds()
SHAPES_CLASS_NAMES = tuple(kind_name(kind) for kind in SHAPES_KINDS)
SHAPES_CLASS_COUNTS = _long_tail()


def picture(split: str, label: int, number: int) -> NDArray[np.uint8]:
    """Picture ``number`` of a class of ``shapes_lt``, as RGB bytes [S, S, 3]; ``split`` is "train" or "test"."""
    return draw(SEED, split, SHAPES_KINDS[label], number, SHAPES_LT)


def prepare(cache_dir: Path, *, progress: Progress | None = None) -> Path:
    """Writes ``shapes_lt`` under ``cache_dir`` unless it is there, and returns its folder.

    The folder holds ``train.txt`` and ``test.txt`` (lines of ``relative/path label``), ``class_names.txt`` (lines of
    ``folder name``, in label order) and the JPEG files. It is made under another name and renamed when it is whole, so
    neither a second process nor a kill in the middle leaves a half-made set.

    ``progress`` is called with (what, pictures written, pictures in all); without it a bar is shown on a terminal.
    Raises ``OSError`` where the cache cannot be written.
    """
    folder = Path(cache_dir) / f"shapes_lt_v{VERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with _bar() if progress is None else nullcontext(progress) as report:
            _write(draft, report)
        os.sync()  # so that a power cut cannot leave a whole folder of empty files
        draft.chmod(0o755)  # mkdtemp makes private folders; a cache may be shared
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, and its pictures are the same
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _sweep(folder: Path) -> None:
    """Removes what killed processes left behind; younger drafts may belong to a process that is still drawing."""
    for draft in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - draft.stat().st_mtime > 3600:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _write(folder: Path, report: Progress) -> None:
    from PIL import Image

    numbers = {"train": SHAPES_CLASS_COUNTS, "test": (TEST_PER_CLASS,) * NUM_CLASSES}
    done, total = 0, sum(map(sum, numbers.values()))
    folders = [name.replace(" ", "_") for name in SHAPES_CLASS_NAMES]
    for split, counts in numbers.items():
        lines = []
        for label, count in enumerate(counts):
            (folder / split / folders[label]).mkdir(parents=True)
            for number in range(count):
                path = f"{split}/{folders[label]}/{number:04}.jpg"
                image = Image.fromarray(picture(split, label, number))
                image.save(folder / path, quality=92, subsampling=0)  # full colour: the pictures are small
                lines.append(f"{path} {label}\n")
                done += 1
                report("drawing shapes_lt (once)", done, total)
        (folder / f"{split}.txt").write_text("".join(lines))
    names = [f"{folder_name} {name}\n" for folder_name, name in zip(folders, SHAPES_CLASS_NAMES, strict=True)]
    (folder / "class_names.txt").write_text("".join(names))
