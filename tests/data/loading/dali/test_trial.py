"""A DALI that imports may still not work: it is tried before it is chosen, and what is wrong is said in a sentence."""

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from loaders import NEEDS_DALI

from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.dali.trial import gist, trial, trouble
from fastlift.data.loading.loader import LoaderSettings, build_loader
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError

OLD_DRIVER = """Critical error when building pipeline:
Error when constructing operator: decoders__ImageSlice encountered:
[/opt/dali/dali/core/cuda_stream.cc:33] CUDA runtime API error cudaErrorInsufficientDriver (35):
CUDA driver version is insufficient for CUDA runtime version
Stacktrace (100 entries):
[frame 0]: libdali_core.so"""
NO_GPU = (
    'Assert on "!params.device_id.has_value() || cuInitChecked()" failed: You are trying to create a GPU DALI pipeline.'
)


class Anything:
    """Stands for DALI's operators and types: takes every call, has every attribute."""

    def __getattr__(self, name: str) -> "Anything":
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __iter__(self) -> Iterator["Anything"]:
        return iter([self] * 4)

    def __getitem__(self, item: Any) -> "Anything":
        return self


class FakePipeline:
    """DALI's pipeline, which fails on the GPUs with a message."""

    built: list[int | None]
    failure: tuple[str, str]  # when, and what it says

    def __init__(self, *, device_id: int | None, **_: Any) -> None:
        self._device_id = device_id

    def __enter__(self) -> "FakePipeline":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def set_outputs(self, *_: Any) -> None: ...

    def build(self) -> None:
        FakePipeline.built.append(self._device_id)
        self._fail("build")

    def run(self) -> tuple[Any]:
        self._fail("run")
        return ("a list",)

    def _fail(self, when: str) -> None:
        if self._device_id is not None and FakePipeline.failure[0] == when:
            raise RuntimeError(FakePipeline.failure[1])


@pytest.fixture
def fake_dali(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Puts a DALI in the place of the installed one that fails as it is told."""
    fake: Any = types.ModuleType("nvidia.dali")
    fake.Pipeline, fake.fn, fake.types = FakePipeline, Anything(), Anything()
    fake_package: Any = types.ModuleType("nvidia")
    fake_package.dali = fake
    monkeypatch.setitem(sys.modules, "nvidia", fake_package)
    monkeypatch.setitem(sys.modules, "nvidia.dali", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)

    def fail(when: str, message: str) -> None:
        FakePipeline.failure, FakePipeline.built = (when, message), []

    trial.cache_clear()
    fail("never", "")
    yield fail
    trial.cache_clear()


def large(image_files: Any) -> ImageIndex:
    return image_files.fill(each=1).load().train


def test_a_dali_that_works_is_taken(fake_dali: Callable[[str, str], None], image_files: Any) -> None:
    index = large(image_files)
    for device, number in (("cuda", 3), ("cuda:1", 1)):
        for _ in range(2):
            assert LoaderSettings().backend_for(index, device, cache_bytes=0) == ("dali", "DALI is installed")
        assert FakePipeline.built[-1] == number
    assert FakePipeline.built == [3, 1]  # each is tried once
    assert LoaderSettings().backend_for(index, "cpu", cache_bytes=0)[0] == "torchvision"
    assert FakePipeline.built == [3, 1]  # for a CPU it is not even tried


@pytest.mark.parametrize("when", ["build", "run"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_dali_of_another_cuda(
    when: str, device: str, fake_dali: Callable[[str, str], None], image_files: Any
) -> None:
    """``auto`` takes the other backend and says why; asked for by name it is refused, in one sentence."""
    fake_dali(when, OLD_DRIVER)
    index = large(image_files)
    number = "3" if device == "cuda" else "1"
    why = (
        f"DALI cannot decode on cuda:{number} (CUDA runtime API error cudaErrorInsufficientDriver (35): "
        "CUDA driver version is insufficient for CUDA runtime version)"
    )
    assert LoaderSettings().backend_for(index, device, cache_bytes=0) == ("torchvision", why)
    with pytest.raises(UserError) as told:
        LoaderSettings("dali").backend_for(index, device)
    assert str(told.value) == (
        f"{why}: pip install 'fastlift[dali]' for drivers of CUDA 13, 'fastlift[dali-cuda12]' for CUDA 12, on Linux; "
        "or use torchvision"
    )


def test_the_loader_asks_for_its_device(
    fake_dali: Callable[[str, str], None], image_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dali("build", NO_GPU)
    with pytest.raises(
        UserError, match=r"DALI cannot decode on cuda:2 \(You are trying to create a GPU DALI pipeline\.\)"
    ):
        build_loader(
            large(image_files),
            TrainCrops(8),
            batch_size=1,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            executor="dali",
            device="cuda:2",
        )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ImportError("libnvjpeg.so.13: cannot open shared object file"),
            "libnvjpeg.so.13: cannot open shared object file",
        ),
        (OSError("libcuda.so.1: file too short"), "libcuda.so.1: file too short"),
    ],
)
def test_a_dali_whose_libraries_are_missing(
    error: Exception, said: str, image_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "nvidia.dali":
                raise error

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    index = large(image_files)
    backend, why = LoaderSettings().backend_for(index, "cuda:1", cache_bytes=0)
    assert backend == "torchvision"
    assert why == f"DALI is installed but cannot be imported ({said})"
    with pytest.raises(UserError, match=r"cannot be imported .*: pip install .*; or use torchvision$"):
        LoaderSettings("dali").backend_for(index, "cuda:1")


@NEEDS_DALI
def test_the_trial_is_a_real_one() -> None:
    """DALI's own decoder makes a crop on the CPU; without a driver, or without that GPU, it says so."""
    trial.cache_clear()
    assert trial(None) == ""
    if not torch.cuda.is_available():
        assert trial(0).startswith("DALI cannot decode on cuda:0 (")
        assert "\n" not in trial(0)


def test_a_dali_that_python_refuses_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert trouble(0).startswith("DALI is installed but cannot be imported")


def test_errors_in_a_line() -> None:
    assert gist(NO_GPU) == "You are trying to create a GPU DALI pipeline."
    assert gist("x encountered:\n\n[a.cc:1] first\nsecond") == "first"
    assert gist("") == ""
    assert len(gist("long " * 1000)) < 250
