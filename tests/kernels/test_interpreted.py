"""Runs tests/kernels/interpreted in processes of their own: Triton decides at import whether kernels are interpreted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
FILES = sorted(file.name for file in FOLDER.glob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_in_the_interpreter(file: str, tmp_path: Path) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process is the interpreter's own")
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}  # small sizes: threads would wait for each other
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:xdist",
        f"--basetemp={tmp_path}",
        str(FOLDER / file),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
