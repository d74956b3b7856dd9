"""The native library as the tests want it; calls are in kernel_cases.py beside this file, bounds in error_bounds.py."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import CUDA, SECOND_CUDA

from fastlift_kernels.native import library

# importlib mode does not put the folder on the path by itself, and a package of its name is the ops' own.
sys.path.insert(0, str(Path(__file__).parent))

# The interpreter must be chosen before Triton is imported: test_interpreted.py runs that folder in a process of its own.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]


@dataclass(frozen=True)
class Way:
    """An implementation on a device."""

    impl: str
    device: str

    def check(self, case: Any) -> None:
        """Every result lies where rounding can have put it."""
        from error_bounds import assert_within_bounds

        assert_within_bounds(case.on(self.device), self.impl)

    def run(self, case: Any) -> dict[str, torch.Tensor]:
        """Results, on the CPU."""
        return {name: x.cpu() for name, x in case.on(self.device).run(self.impl).items()}


ON_GPUS = [CUDA, SECOND_CUDA]


@pytest.fixture(params=["native", *ON_GPUS])
def fused(request: pytest.FixtureRequest) -> Way:
    """Each fused implementation on its devices: the native library, Triton on one GPU and on a second."""
    if request.param == "native":
        request.getfixturevalue("native")
        return Way("native", "cpu")
    return Way("triton", request.param)


@pytest.fixture(params=["portable", "avx2", "avx512", CUDA])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """The same, the native library in each instruction set that this processor has."""
    if request.param == "cuda":
        yield Way("triton", "cuda")
        return
    with _instruction_set(request.getfixturevalue("native"), request.param):
        yield Way("native", "cpu")


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
    with _instruction_set(native, request.param):
        yield request.param


@contextmanager
def _instruction_set(native: Any, name: str) -> Iterator[None]:
    before = library.isa()
    if native.fastlift_select_isa(name.encode()) != 0:
        pytest.skip(f"this processor has no {name}")
    yield
    native.fastlift_select_isa(before.encode())
