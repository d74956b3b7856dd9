"""Run everything that is meant for a GPU, and keep what came out as small JSON files.

  python -m benchmarks.gpu --output build/gpu                      everything, within 300 s
  python -m benchmarks.gpu --output build/gpu --budget 560         everything, with more time for each part
  python -m benchmarks.gpu --output FOLDER --part step kernels     two parts
  python -m benchmarks.gpu --rehearse                              every part at toy size on the CPU: no GPU is needed

Each part runs in a process of its own with its own time limit (--list), and leaves later ones their least, so a failure or a hang costs only itself, and every row is
in FOLDER/PART.json as soon as it is known. FOLDER/summary.json holds the card, its clocks, driver and own rates, versions,
and what became of each part; it says what was skipped and why. Nothing is downloaded, and nothing need be installed beside
torch, torchvision, timm, safetensors, msgspec, numpy and Pillow: DALI, tyro, pytest are used where they are there.

Times are medians of alternated rounds, taken with CUDA events; the host's stand beside them. "% of the matrix rate" is of
what the card's own bf16 products of the ViT's shapes reached in this run, "% of the copy rate" of what a copy reached.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

from benchmarks.gpu.plan import NAMES, PARTS, REHEARSAL_S, SUMMARY, kept_files, part_named
from benchmarks.gpu.running import Runner
from benchmarks.gpu.show import table
from fastlift.errors import UserError

BUDGET_S = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Run the parts.

    Returns:
        0 where every part that ran is done, 1 where one failed or was ended, 2 for wrong use.
    """
    options = _parse(arguments)
    if options.list:
        print(
            "\n".join(
                f"{part.name:<12} at most {part.limit_s:3.0f} s, least {part.least_s:2.0f} s   {part.about}"
                for part in PARTS
            )
        )
        return 0
    signal.signal(signal.SIGTERM, _stop)
    with TemporaryDirectory(prefix="fastlift-gpu-") as scratch:
        folder = options.output or Path(scratch) / "results"
        try:
            _make_ready(folder, options.replace)
            runner = Runner(folder, Path(scratch), options.budget, options.rehearse)
            summary = runner([part_named(name) for name in NAMES if name in (options.part or NAMES)])
        except UserError as error:
            print(f"benchmarks.gpu: {error}", file=sys.stderr)
            return error.exit_code
        print(table(summary), flush=True)
        wrong = [name for name, part in summary["parts"].items() if part["state"] in ("failed", "ended")]
        if wrong:
            print(f"not right: {', '.join(wrong)} ({folder / 'summary.json'} tells more)", file=sys.stderr)
        return 1 if wrong else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where results go; needed but for --rehearse")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help=f"for all parts together ({BUDGET_S:.0f})")
    parser.add_argument("--part", nargs="+", choices=NAMES, metavar="NAME", help=f"only these, of {', '.join(NAMES)}")
    parser.add_argument("--list", action="store_true", help="the parts and their time limits, and nothing else")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on the CPU; its times mean nothing")
    parser.add_argument("--replace", action="store_true", help="delete the results of an earlier run in FOLDER")
    options = parser.parse_args(arguments)
    if options.output is None and not options.rehearse and not options.list:
        parser.error("--output FOLDER is needed: results are kept there")
    if options.budget is None:
        options.budget = REHEARSAL_S if options.rehearse else BUDGET_S
    if not options.budget > 0:
        parser.error(f"--budget: expected seconds, got {options.budget}")
    return options


def _make_ready(folder: Path, replace: bool) -> None:
    """A folder without results, and what every part needs.

    Raises:
        UserError: it has some, or msgspec is missing, without which no part could say more than that it failed.
    """
    if importlib.util.find_spec("msgspec") is None:
        raise UserError(
            "msgspec is not installed: pip install msgspec, or where that cannot be, unpack its wheel (0.2 MB) into a folder and name "
            "that in PYTHONPATH"
        )
    folder.mkdir(parents=True, exist_ok=True)
    kept = kept_files(folder)
    if not replace and any(file.name != SUMMARY for file in kept):  # a summary alone is that of a run without a card
        raise UserError(
            f"{folder} holds the results of an earlier run: name another folder, or replace them with --replace"
        )
    for file in kept:
        file.unlink()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """As Ctrl-C: the part at work is ended, its rows stay."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("benchmarks.gpu: stopped; rows that were made are kept", file=sys.stderr)
        sys.exit(130)
