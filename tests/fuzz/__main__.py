"""Coverage-guided fuzzing: ``python -m tests.fuzz [TARGET ...] --seconds 60``, each target in a process of its own.

Starts from ``corpus/TARGET``, keeps what reaches new code in ``build/fuzz/TARGET``, and writes the input of a failure to
``build/fuzz/finds``: mend the reader, then move the input to ``corpus/TARGET``, where ``make test`` tries it for ever.
The engine is Atheris (libFuzzer); it comes with the extra ``fuzz``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "fuzz"


def main() -> int:
    """Fuzz the targets one after another."""
    sys.path.insert(0, str(HERE.parent))
    from .targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    options = parser.parse_args()
    failed = []
    for name in options.targets or TARGETS:
        ended = _fuzz(name, options.seconds)
        failed += [name] if ended else []
    print(f"{len(options.targets or TARGETS) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}".rstrip())
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> int:
    kept, finds = BUILD / name, BUILD / "finds"
    kept.mkdir(parents=True, exist_ok=True), finds.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=6000", "-max_len=65536", "-verbosity=0"]
    folders = [str(kept), *([str(HERE / "corpus" / name)] if (HERE / "corpus" / name).is_dir() else [])]
    command = [sys.executable, "-m", "tests.fuzz.engine", name, *limits, f"-artifact_prefix={finds}/{name}-", *folders]
    began, log = time.monotonic(), BUILD / f"{name}.log"
    with log.open("wb") as said:
        code = subprocess.run(
            command, stdout=said, stderr=said, cwd=HERE.parents[1], env=_quiet(), check=False
        ).returncode
    inputs = sum(1 for path in kept.iterdir() if path.is_file())
    print(
        f"{name}: {'ok' if code == 0 else f'FAILED, see {log}'}; {inputs} inputs, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return code


def _quiet() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


if __name__ == "__main__":
    sys.exit(main())
