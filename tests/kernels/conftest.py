"""The native library as the tests want it; calls and yardsticks are in kernel_cases.py beside this file."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlift_kernels.native import library

# importlib mode does not put the folder on the path by itself, and a package of its name is the ops' own.
sys.path.insert(0, str(Path(__file__).parent))

# The interpreter must be chosen before Triton is imported: test_interpreted.py runs that folder in a process of its own.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]


@pytest.fixture
def native() -> Iterator[Any]:
    """The loaded native library, its scratch memory full of NaN; skipped where it was not built."""
    if library.LOADED is None:
        pytest.skip(f"no native library: {library.MISSING}")
    library.LOADED.fastlift_poison_scratch(1)
    yield library.LOADED
    library.LOADED.fastlift_poison_scratch(0)


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, native: Any) -> Iterator[str]:
    """Each instruction set in turn; skipped where this processor lacks it."""
    before = library.isa()
    if native.fastlift_select_isa(request.param.encode()) != 0:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native.fastlift_select_isa(before.encode())
