"""What a part is given: its sizes, its clock, the card's rates, and a way to make rows that survives failures."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.machine import CAPABILITY_BF16, Rates
from benchmarks.gpu.rows import Row, Rows
from benchmarks.gpu.show import line
from benchmarks.gpu.sizes import Sizes

SLACK = 4.0  # a group of rows may take so many times what it should before it is ended
LEAST_LIMIT_S = 60.0


class Skip(Exception):
    """Why a row cannot be made here."""


class Broken(Exception):
    """The device answers nothing but errors now: this process can make no more rows, another one can."""


@dataclass
class Bench:
    """A part at work.

    Attributes:
        part: its name.
        sizes: of what is measured.
        is_rehearsal: toy sizes on the CPU.
        clock: of the device.
        rates: of the card.
        rows: where rows go.
        scratch: a folder for images and runs, deleted after the run.
        ends_at: when the part must have ended, by ``time.monotonic``.
    """

    part: str
    sizes: Sizes
    is_rehearsal: bool
    clock: Clock
    rates: Rates
    rows: Rows
    scratch: Path
    ends_at: float
    _done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._done = {row["group"] for row in self.rows.of(self.part)}  # by an earlier process of this part

    @property
    def device(self) -> torch.device:
        return self.clock.device

    @property
    def dtype(self) -> torch.dtype:
        """What everything computes in."""
        return torch.bfloat16

    def left(self) -> float:
        """Seconds that this part still has."""
        return self.ends_at - time.monotonic()

    def is_done(self, group: str) -> bool:
        """Whether an earlier process of this part came to rows of this group."""
        return group in self._done

    def add(self, group: str, row: Row) -> None:
        """Keep a row and print it."""
        whole = {"part": self.part, "group": group, **row}
        self.rows.add(whole)
        print(line(whole), flush=True)

    def shares(self, ms: float, flop: float, moved: float = 0.0) -> Row:
        """What work in ``ms`` is of the card's own rates: products by the ViT's, bytes by the copy's."""
        seconds = 1e-3 * ms
        found: Row = {}
        if flop:
            found["tflop_per_s"] = round(flop / seconds / 1e12, 4)
            found["share_of_matrix"] = round(flop / seconds / 1e12 / self.rates.vit_tflops, 4)
        if moved:
            found["tb_per_s"] = round(moved / seconds / 1e12, 4)
            found["share_of_copy"] = round(moved / seconds / 1e12 / self.rates.copy_tb_per_s, 4)
        return found

    def attempt(self, group: str, needs_s: float, make: Callable[[], Iterable[Row]]) -> None:
        """Make the rows of a group; whatever happens is a row, and none of it ends the part.

        Args:
            group: a name of its own within the part.
            needs_s: seconds that it should take; without them it is not begun.
            make: gives the rows, each with a ``name``; each is kept at once.

        Raises:
            Broken: the device is of no use to this process any more.
        """
        if self.is_done(group):
            return
        if not self.is_rehearsal and self.left() < needs_s:
            self.add(
                group,
                {"name": group, "skipped": f"{max(self.left(), 0):.0f} s were left, it takes about {needs_s:.0f}"},
            )
            return
        with self.at_work(group, max(SLACK * needs_s, LEAST_LIMIT_S)):
            try:
                self._check_bf16()
                for row in make():
                    self.add(group, row)
            except Exception as error:
                self.add(group, {"name": group, **outcome_of(error)})
                self.check_device()
            finally:
                self.tidy()

    @contextmanager
    def at_work(self, group: str, limit_s: float) -> Iterator[None]:
        """Tell the parent what is being done, so that a process that dies or hangs over it is known to."""
        note = running_note(self.scratch)
        note.write_text(json.dumps({"group": group, "limit_s": limit_s, "since": time.monotonic()}), encoding="utf-8")
        try:
            yield
        finally:
            note.unlink()

    def _check_bf16(self) -> None:
        if self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) < CAPABILITY_BF16:
            major, minor = torch.cuda.get_device_capability(self.device)
            raise Skip(f"this card (capability {major}.{minor}) has no bf16 arithmetic; 8.0 or more has")

    def check_device(self) -> None:
        """The device still answers.

        Raises:
            Broken: it does not; after an illegal address every later call of the process fails.
        """
        try:
            self.clock.wait()
        except RuntimeError as error:
            raise Broken(str(error)) from error

    def tidy(self) -> None:
        """Give memory and compiled code back."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def running_note(scratch: Path) -> Path:
    """Where a part tells what it is at."""
    return scratch / "running.json"


def outcome_of(error: Exception) -> Row:
    """A row's words for what went wrong: ``skipped`` where that is no fault, else ``error``; a traceback to stderr."""
    if isinstance(error, Skip):
        return {"skipped": str(error)}
    first = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, torch.OutOfMemoryError):
        return {"skipped": f"out of memory: {first}"}
    traceback.print_exception(error, file=sys.stderr)
    return {"error": f"{type(error).__name__}: {first}"}
