"""The torture suite: ``make torture``, or ``python -m tests.torture``; resumable, an hour or until ``--seconds`` are over.

Each case is one command hurt at one place, then finished, then compared bit for bit. What is done stands in
``build/torture/done.jsonl``; a second start goes on, and ``--again`` forgets it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .cases import every_case, perform
from .harness import REPOSITORY, UNTRIED, Commands, build_faults
from .limits import left_out
from .scenarios import Scenarios


def main() -> int:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so long (default: %(default)s)")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--scenarios", nargs="+", default=[], help="cases of these alone")
    parser.add_argument("--again", action="store_true", help="forget what is done")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the cases and of random moments")
    options = parser.parse_args()
    record = REPOSITORY / "build" / "torture" / "done.jsonl"
    if options.again:
        record.unlink(missing_ok=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["case"] for line in record.read_text().splitlines()} if record.exists() else set()
    until, failed, untried, count = time.monotonic() + options.seconds, 0, 0, 0
    with prepared() as (commands, scenarios):
        every = every_case(commands, scenarios, options.seed, options.scenarios)
        cases = [case for case in every if options.only in case.name]
        left = [case for case in cases if case.name not in done]
        random.Random(options.seed).shuffle(left)
        print(f"{len(cases)} cases, {len(cases) - len(left)} of them done before", flush=True)
        for reason in left_out(commands):
            print(f"left out: {reason}", flush=True)
        for case in left:
            if time.monotonic() > until:
                break
            wrong = perform(case, commands, scenarios)
            count += 1
            untried += wrong == UNTRIED
            failed += bool(wrong) and wrong != UNTRIED
            with record.open("a") as file:
                file.write(json.dumps({"case": case.name, "wrong": wrong}) + "\n")
            print(f"{count}/{len(left)} {case.name}: {wrong or 'ok'}", flush=True)
    remain = len(left) - count
    told = [f"{count - failed - untried} passed", f"{failed} failed", f"{untried} had ended before they could be hurt"]
    print(", ".join(told) + (f", {remain} left for the next start" if remain else ""))
    return 1 if failed else 0


class prepared:
    """A worker, a folder for it, and the reference runs; all gone afterwards."""

    def __enter__(self) -> tuple[Commands, Scenarios]:
        sys.path.insert(0, str(REPOSITORY / "tests"))
        from fixtures import write_tiny_clip, write_tiny_data

        self.base = Path(tempfile.mkdtemp(prefix="fastlift-torture-"))
        data, work = self.base / "data", self.base / "work"
        data.mkdir(), work.mkdir()
        write_tiny_clip(data), write_tiny_data(data)
        self.commands = Commands(work, self.base / "cache", build_faults(self.base))
        return self.commands, Scenarios(self.commands, data, self.base / "kept")

    def __exit__(self, *exception: object) -> None:
        self.commands.__exit__(None, None, None)
        shutil.rmtree(self.base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
