"""What NVIDIA's driver is asked and what its file tells, on pretended machines."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlift.system.machine import Driver, driver, gpus, gpus_are_hidden

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs)  Sun Jul 27\nGCC version: 12\n"
OLD = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"


class Library:
    """NVML's functions; those that are named in ``broken`` give an error."""

    def __init__(self, names: tuple[bytes, ...] = (), broken: str = "") -> None:
        self.names, self.broken, self.shut = names, broken, False

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*given: Any) -> int:
            if name.removesuffix("_v2") == self.broken:
                return 9
            if name == "nvmlSystemGetDriverVersion":
                given[0].value = b"470.57.02"
            elif name == "nvmlSystemGetCudaDriverVersion_v2":
                given[0]._obj.value = 11040
            elif name == "nvmlDeviceGetCount_v2":
                given[0]._obj.value = len(self.names)
            elif name == "nvmlDeviceGetHandleByIndex_v2":
                given[1]._obj.value = given[0] + 1
            elif name == "nvmlDeviceGetName":
                given[1].value = self.names[given[0].value - 1]
            elif name == "nvmlShutdown":
                self.shut = True
            return 0

        return call


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    def pretend(library: Library | None, module: str | None) -> None:
        def load(name: str) -> Library:
            if name != "libnvidia-ml.so.1" or library is None:
                raise OSError(f"{name}: cannot open shared object file")
            return library

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(gpus, "KERNEL_MODULE", tmp_path / "version")
        if module is not None:
            (tmp_path / "version").write_text(module)

    return pretend


def test_the_driver_s_library_tells_all(machine: Callable[..., None]) -> None:
    library = Library((b"NVIDIA H100", b"Tesla K80"))
    machine(library, OPEN)
    assert driver() == Driver("470.57.02", (11, 4), ("NVIDIA H100", "Tesla K80"))
    assert library.shut


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("nvmlInit", Driver("580.65.06")),
        ("nvmlSystemGetDriverVersion", Driver("580.65.06")),
        ("nvmlSystemGetCudaDriverVersion", Driver("470.57.02", None, ("H100",))),
        ("nvmlDeviceGetCount", Driver("470.57.02", (11, 4))),
        ("nvmlDeviceGetName", Driver("470.57.02", (11, 4), ("GPU 0",))),
    ],
)
def test_a_library_that_fails_somewhere(machine: Callable[..., None], broken: str, found: Driver) -> None:
    machine(Library((b"H100",), broken), OPEN)
    assert driver() == found


@pytest.mark.parametrize(
    ("module", "found"), [(OPEN, Driver("580.65.06")), (OLD, Driver("470.57.02")), ("nonsense", None), (None, None)]
)
def test_without_the_library_the_module_s_file_tells(
    machine: Callable[..., None], module: str | None, found: Driver | None
) -> None:
    machine(None, module)
    assert driver() == found


@pytest.mark.parametrize(
    ("value", "hidden"), [(None, False), ("0", False), ("1,0", False), ("", True), (" -1", True), ("GPU-8932", False)]
)
def test_hidden_gpus(monkeypatch: pytest.MonkeyPatch, value: str | None, hidden: bool) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpus_are_hidden() is hidden
