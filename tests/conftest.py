"""What all tests share: seeds, few threads for parallel workers, and the way to the reference data beside the repository."""

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

# The package of test helpers is not installed; importlib mode does not put it on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

import absent
import fuzzing  # loads the profile of the property tests
from devices import DEVICES
from fixtures import SHARED

from fastlift_kernels import code_digest


def pytest_configure(config: pytest.Config) -> None:
    _as_started_in_the_foreground()
    compiled = Path(tempfile.gettempdir()) / f"fastlift-tests-inductor-{code_digest()}"  # none of other kernels
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    config.pluginmanager.register(absent)
    if fuzzing.SECONDS:
        config.pluginmanager.register(fuzzing.Fuzzing())


def _as_started_in_the_foreground() -> None:
    """Signals that a background job or nohup ignores stay ignored by fastlift: tests of signals must not depend on that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    np.random.seed(0)  # noqa: NPY002 - third-party code under test still draws from the legacy generator
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published files come from servers of the tests alone, and everything else is as offline."""
    from fastlift.data.stores import download

    ask = download.urlopen

    def on_this_machine(request: Any, timeout: float) -> Any:
        if urlsplit(request.full_url).hostname not in ("127.0.0.1", "localhost"):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return ask(request, timeout=timeout)

    monkeypatch.setattr(download, "urlopen", on_this_machine)


@pytest.fixture(autouse=True)
def _triton_is_tried_anew() -> None:
    """Whether Triton starts kernels is asked once in a process: a test that pretends a GPU must not answer for the next."""
    from fastlift_kernels import dispatch

    dispatch.triton_fault.cache_clear()
    dispatch.warn_of_triton_fault.cache_clear()


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``--amp auto`` means on a CPU must not depend on how busy the machine is: fp32 is the faster one here."""
    from fastlift.models import precision as products

    monkeypatch.setattr(products, "measure", lambda shape: products.Speeds(fp32=200.0, bf16=100.0, ratio=0.5))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_worker() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; a GPU is skipped, with the reason, where there is none."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real images and golden numbers; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the reference data (../shared or $FASTLIFT_SHARED) is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny CLIP with random weights: (open_clip JSON, safetensors)."""
    from fixtures import write_tiny_clip

    return write_tiny_clip(tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long-tailed set of colour patches with list files."""
    from fixtures import write_tiny_data

    return write_tiny_data(tmp_path_factory.mktemp("tiny_data"))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices and text features go to a folder of this test run, never to the user's cache."""
    before = os.environ.get("FASTLIFT_CACHE")
    os.environ["FASTLIFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("FASTLIFT_CACHE")
    if before is not None:
        os.environ["FASTLIFT_CACHE"] = before
