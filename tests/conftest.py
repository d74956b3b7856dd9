"""What all tests share: seeds, few threads for parallel workers, and the way to the reference data beside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

# The reference data is optional: it lies beside a developer's checkout, never inside the repository.
SHARED = Path(os.environ.get("FASTLIFT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    np.random.seed(0)  # noqa: NPY002 - third-party code under test still draws from the legacy generator
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_worker() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real images and golden numbers; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the reference data (../shared or $FASTLIFT_SHARED) is not on this machine")
    return SHARED
