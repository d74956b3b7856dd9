"""The parts of a run, one after another, each within its limit and what the budget has left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import BROKEN, CARD, card_file
from benchmarks.gpu.nvidia import nvidia_smi
from benchmarks.gpu.plan import PROBE_LIMIT_S, SUMMARY, Part, rows_file
from benchmarks.gpu.process import Ended, python, run
from benchmarks.gpu.rows import Row, Rows, failed, sweep
from benchmarks.gpu.show import line
from fastlift.errors import UserError
from fastlift.system.files import read_json, write_json

NAMED = 100  # skipped and failed rows in the summary; the parts' files hold all of them
LEAST_S = 5.0  # below it no part is begun


@dataclass
class Runner:
    """A run.

    Attributes:
        folder: where results go.
        scratch: for what is of no use afterwards.
        budget_s: seconds for all parts together.
        is_rehearsal: toy sizes on the CPU.
        command: how a part's process is started: (what, seconds) -> command.
    """

    folder: Path
    scratch: Path
    budget_s: float
    is_rehearsal: bool
    command: Callable[[str, float], list[str]] | None = None
    summary: dict[str, Any] = field(default_factory=lambda: {"head": {}, "parts": {}})

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget_s - (time.monotonic() - self._began)

    def __call__(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Run the parts; the summary, which is rewritten after each.

        Raises:
            UserError: the card could not be asked, so that nothing can be measured.
        """
        self.summary |= {"budget_s": self.budget_s, "is_rehearsal": self.is_rehearsal}
        self._write()
        self._probe()
        waiting = list(parts)
        while waiting:
            part = waiting.pop(0)
            limit = share(part, waiting, self.left())
            if limit < LEAST_S:
                why = f"the budget of {self.budget_s:.0f} s was used up before it"
                self.summary["parts"][part.name] = _told("not run", why, 0.0, [])
                print(f"{part.name:<12} not run: {why}", flush=True)
            else:
                self.summary["parts"][part.name] = _told("ended", "the whole run was stopped", 0.0, [])
                self._write()  # true if this process is stopped now
                self.summary["parts"][part.name] = self._run(part, limit)
                self.summary["parts"][part.name]["nvidia_smi"] = nvidia_smi()
            self._write()
        return self.summary

    def _write(self) -> None:
        write_json(self.folder / SUMMARY, self.summary)

    def _probe(self) -> None:
        ends_at = time.monotonic() + min(PROBE_LIMIT_S, self.left())
        ended = self._start(CARD, ends_at, self.scratch / "nothing")
        if ended.status or ended.why:
            reason = ended.why or ended.words.strip() or f"exit status {ended.status}"
            self.summary["why"] = reason
            self._write()
            raise UserError(f"the card could not be asked: {reason}", exit_code=1)
        self.summary["head"] = read_json(card_file(self.scratch))
        self._write()

    def _run(self, part: Part, limit: float) -> dict[str, Any]:
        """A part, begun again where its process died over one row, without that row."""
        began = time.monotonic()
        ends_at, note = began + limit, self.scratch / "running.json"
        rows = self._rows(part)
        while True:
            note.unlink(missing_ok=True)
            before = len(rows.rows)
            ended = self._start(part.name, ends_at, note)
            sweep(self.folder)
            rows = self._rows(part)
            if ended.status and (at := _noted(note)):
                row = {
                    "part": part.name,
                    "group": at["group"],
                    "name": at["group"],
                    "error": ended.why or _status(ended),
                }
                rows.add(row)
                print(line(row), flush=True)
            over = time.monotonic() > ends_at - LEAST_S
            if ended.status == 0 or over or len(rows.rows) == before:
                break
        made, seconds = rows.of(part.name), time.monotonic() - began
        if ended.status == 0:
            wrong = [row["name"] for row in failed(made)]
            return _told("failed" if wrong else "done", "; ".join(wrong[:5]), seconds, made)
        why = ended.why or _status(ended)
        print(f"{part.name}: {why}\n{ended.words}".rstrip(), flush=True)
        return _told("ended" if ended.why else "failed", why, seconds, made) | {"stderr": ended.words}

    def _start(self, what: str, ends_at: float, note: Path) -> Ended:
        seconds = ends_at - time.monotonic()

        def must_end() -> str:
            if time.monotonic() > ends_at:
                return f"its {seconds:.0f} s were over"
            return _row_over(note)

        command = self.command or self._child
        return run(command(what, seconds), self.scratch, self.is_rehearsal, must_end)

    def _child(self, what: str, seconds: float) -> list[str]:
        words = [what, str(self.folder), str(self.scratch), f"{seconds:.1f}"]
        return python("-m", "benchmarks.gpu.child", *words, *(["rehearse"] if self.is_rehearsal else []))

    def _rows(self, part: Part) -> Rows:
        return Rows(rows_file(self.folder, part), self.summary["head"])


def share(part: Part, later: list[Part], left: float) -> float:
    """Seconds for a part: its limit, but no more than leaves each later part its least; its own least if there is so much."""
    return min(part.limit_s, max(left - sum(other.least_s for other in later), min(left, part.least_s)))


def _noted(note: Path) -> dict[str, Any] | None:
    """What a part's process is at, as it noted; None where it has not, or died while it wrote."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _row_over(note: Path) -> str:
    """Why the process must end for the sake of the row that it is at; empty where it need not."""
    at = _noted(note)
    if at and time.monotonic() - at["since"] > at["limit_s"]:
        return f"{at['group']} took more than its {at['limit_s']:.0f} s"
    return ""


def _status(ended: Ended) -> str:
    if ended.status == BROKEN:
        return "the device answered no more"
    return f"signal {-ended.status} ended its process" if ended.status < 0 else f"its process failed ({ended.status})"


def _told(state: str, why: str, seconds: float, rows: list[Row]) -> dict[str, Any]:
    return {
        "state": state,
        "why": why,
        "seconds": round(seconds, 1),
        "rows": len(rows),
        "rows_skipped": sum("skipped" in row for row in rows),
        "rows_failed": len(failed(rows)),
        "skipped": [f"{row['name']}: {row['skipped']}" for row in rows if "skipped" in row][:NAMED],
        "failed": [f"{row['name']}: {row['error']}" for row in failed(rows)][:NAMED],
    }
