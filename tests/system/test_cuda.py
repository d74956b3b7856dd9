"""GPUs that are here and cannot be used: one sentence with the reason and what helps, and what is used instead."""

import importlib.util
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastlift.config import Config
from fastlift.engine import agreement
from fastlift.engine import evaluate as engine_evaluate
from fastlift.engine import train as training
from fastlift.errors import FastliftWarning, UserError
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.precision import resolve_amp
from fastlift.system import cuda as gpus
from fastlift.system.cuda import check_triton, triton_trouble, trouble
from fastlift.system.device import resolve_device, using_device
from fastlift.system.library_output import own_warnings_alone
from fastlift.system.machine import Driver

GPU = torch.device("cuda")
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
TORCHS_WORDS = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    *,
    gpus_seen: int = 0,
    capability: tuple[int, int] = (9, 0),
    code: list[str] = BUILT,
    built_for: str | None = "13.0",
    driver: Driver | None = None,
) -> None:
    """A machine with so many GPUs that PyTorch sees, and this driver."""

    asked: list[bool] = []

    def is_available() -> bool:
        asked.append(True)
        if driver is not None and not gpus_seen and len(asked) == 1:  # torch counts GPUs once
            warnings.warn(TORCHS_WORDS, stacklevel=1)
        return gpus_seen > 0

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus_seen)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Pretended GPU")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: code)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch, "__version__", "2.14.1")
    monkeypatch.setattr(gpus, "driver", lambda: driver)


OLD = Driver("470.57.02", (11, 4), ("Tesla V100",))
NEW = Driver("580.65.06", (13, 0), ("H100", "H100"))


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (
            {"driver": OLD},
            "the NVIDIA driver 470.57.02 (Tesla V100) runs CUDA up to 11.4 and is too old for this PyTorch (2.14.1), which "
            "is built for CUDA 13.0 and needs driver 580 or newer; update the driver, or install a PyTorch built for CUDA 11 "
            "(https://pytorch.org)",
        ),
        (
            {"driver": Driver("535.1", (12, 2), ("L4",)), "built_for": "12.8"},
            "the NVIDIA driver 535.1 lists L4, but this PyTorch (2.14.1), which is built for CUDA 12.8, sees none "
            f"({TORCHS_WORDS}); nvidia-smi tells whether the driver is well",
        ),
        (
            {"driver": NEW, "built_for": None},
            "this PyTorch (2.14.1) is built without CUDA, and the NVIDIA driver 580.65.06 lists H100; "
            "pip install --force-reinstall torch torchvision   (Linux packages from PyPI have CUDA)",
        ),
        (
            {"driver": Driver("580.65.06")},
            "the NVIDIA driver 580.65.06 is loaded, but its library is not here, as in a container without GPUs; "
            "start it with them: docker run --gpus all",
        ),
        (
            {"gpus_seen": 1, "capability": (3, 7)},
            "the GPU Pretended GPU (capability 3.7) is too old for this PyTorch (2.14.1), which has code for capabilities "
            "7.5 to 12.0; install an older build (https://pytorch.org)",
        ),
        (
            {"gpus_seen": 1, "capability": (12, 1), "code": ["sm_80", "sm_90a"]},
            "the GPU Pretended GPU (capability 12.1) is too new for this PyTorch (2.14.1), which has code for capabilities "
            "8.0 to 9.0; install a newer build (https://pytorch.org)",
        ),
    ],
    ids=["old driver", "another reason", "no CUDA", "container", "old card", "new card"],
)
def test_a_gpu_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], sentence: str) -> None:
    """``auto`` says so once, torch's own words in it, and takes the CPU; who asks for the GPU gets the error."""
    pretend(monkeypatch, **machine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert resolve_device("auto").type == "cpu"
    assert [(entry.category, str(entry.message)) for entry in caught] == [
        (FastliftWarning, f"no GPU is used, but the CPU: {sentence}")
    ]
    pretend(monkeypatch, **machine)
    with pytest.raises(UserError) as error:
        resolve_device("cuda")
    assert str(error.value) == f"device cuda: {sentence}; or use --device cpu"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_device("auto").type == "cpu", "the first process tells it for all"


def test_the_command_line_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, driver=OLD)
    with own_warnings_alone():
        resolve_device("auto")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fastlift: no GPU is used, but the CPU: the NVIDIA driver 470.57.02 (Tesla V100) runs CUDA")


@pytest.mark.parametrize(
    "machine",
    [
        {},
        {"gpus_seen": 1},
        {"gpus_seen": 1, "capability": (8, 9)},
        {"gpus_seen": 1, "capability": (12, 1)},
        {"gpus_seen": 1, "capability": (13, 0)},
        {"gpus_seen": 1, "code": ["gfx90a"]},
        {"gpus_seen": 1, "code": []},
        {"gpus_seen": 1, "capability": (10, 3), "code": ["sm_100f"]},
        {"gpus_seen": 1, "capability": (9, 0), "code": ["sm_90a"]},
    ],
    ids=["none", "H100", "minor version", "GB10", "by PTX", "AMD", "unknown code", "family", "exactly"],
)
def test_nothing_is_said_where_nothing_is_amiss(monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any]) -> None:
    pretend(monkeypatch, **machine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trouble() is None
        assert resolve_device("auto").type == ("cuda" if machine else "cpu")


def test_hidden_gpus_are_somebody_s_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, driver=NEW)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_device("auto").type == "cpu"
    with pytest.raises(
        UserError, match=r"finds no CUDA GPU here \(CUDA_VISIBLE_DEVICES hides them all\).*--device cpu"
    ):
        resolve_device("cuda")


def test_a_driver_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus_seen=1)

    def fails(device: Any = None) -> Any:
        raise RuntimeError("CUDA unknown error\nand a stack")

    monkeypatch.setattr(torch.cuda, "get_device_capability", fails)
    with pytest.raises(UserError, match=r"PyTorch cannot start CUDA \(CUDA unknown error\); nvidia-smi"):
        resolve_device("cuda")


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus_seen=1)
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UserError, match=r"device cuda:3: this machine has one GPU, cuda:0$"):
        resolve_device("cuda:3")
    pretend(monkeypatch, gpus_seen=2)
    with pytest.raises(UserError, match=r"device cuda:2: this machine has 2 GPUs, cuda:0 to cuda:1$"):
        resolve_device("cuda:2")
    with pytest.raises(UserError, match="only cpu and cuda are supported"):
        resolve_device("meta")


def test_dtypes_that_a_card_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus_seen=1, capability=(7, 5))
    chosen = resolve_amp("auto", GPU)
    assert (chosen.dtype, chosen.why) == (torch.float16, "GPU of capability 7.5; bf16 from 8.0 on, fp16 below")
    with pytest.raises(UserError, match=r"amp bf16: this GPU \(capability 7.5\) has no bf16 units.*use --amp fp16"):
        resolve_amp("bf16", GPU)
    with pytest.raises(UserError, match=r"frozen fp8: this GPU \(capability 7.5\) has no fp8 units; 8.9 or more has"):
        Fp8Settings("fp8").check(GPU, torch.float16)
    pretend(monkeypatch, gpus_seen=1, capability=(8, 9))
    assert resolve_amp("auto", GPU).dtype is torch.bfloat16
    Fp8Settings("fp8").check(GPU, torch.bfloat16)


def test_a_run_has_its_gpu_and_its_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile alone, and whatever ends it; settings of torch's newer kind are the caller's."""
    entered: list[object] = []

    @contextmanager
    def device(chosen: object) -> Iterator[None]:
        entered.append(chosen)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    second = torch.device("cuda", 1)
    assert torch.backends.cudnn.allow_tf32, "torch's default"

    def fail() -> None:
        with using_device(second):
            assert not torch.backends.cudnn.allow_tf32
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.backends.cudnn.allow_tf32
    assert entered == [second]
    with using_device(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32

    def mixed() -> bool:
        raise RuntimeError("You are using both the legacy and the new API")

    monkeypatch.setattr(torch._C, "_get_cudnn_allow_tf32", mixed)
    with using_device(second):
        pass
    assert entered == [second, second]


# Triton, which needs a C compiler while it runs


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Triton that can be imported, and whose driver does not start: it compiles C for that."""

    class Active:
        @property
        def active(self) -> Any:
            raise RuntimeError("Failed to find C compiler.")

    runtime = SimpleNamespace(driver=Active())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "triton.runtime", runtime)
    return runtime


def test_triton_without_a_compiler(monkeypatch: pytest.MonkeyPatch, triton: SimpleNamespace) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C compiler .*; apt-get install gcc, or uninstall triton") as error:
        check_triton(GPU)
    assert error.value.exit_code == 1
    check_triton(torch.device("cpu"))
    triton.driver = SimpleNamespace(active=SimpleNamespace(utils=1))
    check_triton(GPU)  # from its cache, perhaps: what works is not refused


def test_triton_without_python_s_headers(
    monkeypatch: pytest.MonkeyPatch, triton: SimpleNamespace, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(gpus.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    with pytest.raises(UserError, match=r"has no Python.h; apt-get install python3-dev, or uninstall triton"):
        check_triton(GPU)
    (tmp_path / "Python.h").touch()
    assert triton_trouble() is None
    with pytest.raises(UserError, match=r"Triton does not work here \(RuntimeError: Failed to find C compiler.\)"):
        check_triton(GPU)


def test_triton_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, triton: SimpleNamespace) -> None:
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    with pytest.raises(UserError, match=r"cannot be imported \(.*; pip install --force-reinstall triton, or uninstall"):
        check_triton(GPU)


def test_without_triton_plain_pytorch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert triton_trouble() is None
    check_triton(GPU)


def test_it_is_asked_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By training, evaluation and zero-shot; nothing is written then."""

    def refuse(device: torch.device) -> None:
        raise UserError("no compiler")

    monkeypatch.setattr(agreement, "check_triton", refuse)
    with pytest.raises(UserError, match="no compiler"):
        training.train(Config(), output=tmp_path / "run")
    with pytest.raises(UserError, match="no compiler"):
        engine_evaluate.zero_shot(Config())
    assert not (tmp_path / "run").exists()
