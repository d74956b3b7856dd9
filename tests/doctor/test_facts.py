"""What the doctor finds on this machine and on pretended ones, and how it tells."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from fastlift import doctor
from fastlift.doctor import facts
from fastlift.doctor.choices import CHOICES
from fastlift.errors import FastliftWarning
from fastlift.system import cuda as gpus
from fastlift.system.machine import Driver


def told(found: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(doctor.render(found))
    return capture.get()


def test_report_is_json_and_agrees_with_what_training_resolves() -> None:
    found = doctor.report()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    versions = {entry["name"]: entry["version"] for entry in found["packages"]}
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert found["choices"]["device"]["value"].startswith("cuda") == torch.cuda.is_available()
    assert {choice["value"] for choice in found["choices"].values()}.isdisjoint({"broken"})
    if not torch.cuda.is_available():
        shown = "for a ViT-B/16 a block runs at 200 GFLOP/s in fp32, 100 in bf16"
        assert found["choices"]["amp"] == {"value": "fp32", "why": shown}
        assert found["gpus"] == []


def test_report_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "deep" / "cache"))
    found = doctor.report()
    assert found["cache"]["folder"] == str(tmp_path / "deep" / "cache")
    assert not found["cache"]["exists"]
    assert found["cache"]["writable"]
    assert list(tmp_path.iterdir()) == []


def test_cache_size_is_that_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "features").write_bytes(bytes(3 * 2**20))
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path))
    assert doctor.report()["cache"]["size_mib"] == 3.0


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    properties = SimpleNamespace(
        name="Pretended GPU",
        major=capability[0],
        minor=capability[1],
        total_memory=24 * 2**30,
        multi_processor_count=80,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Pretended GPU")


@pytest.mark.parametrize(("capability", "amp", "dtypes"), [((9, 0), "bf16", "fp16 bf16 fp8"), ((7, 5), "fp16", "fp16")])
def test_pretended_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], amp: str, dtypes: str) -> None:
    pretend_gpus(monkeypatch, capability)
    found = doctor.report()
    assert found["choices"]["device"]["value"] == "cuda"
    assert found["choices"]["amp"]["value"] == amp
    text = told(found, width=140)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    shown = f"Pretended GPU, capability {capability[0]}.{capability[1]}, 24.0 GiB, multiplies {dtypes}"
    assert f"gpu 0 {shown}" in lines
    assert f"gpu 1 {shown}" in lines


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found and told once, as training tells it, with what helps."""
    old = Driver("470.57.02", (11, 4), ("Tesla V100",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for room in (gpus, facts):
        monkeypatch.setattr(room, "driver", lambda: old)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FastliftWarning)
        found = doctor.report()
    text = " ".join(told(found, width=200).split())
    assert (
        text.count("The NVIDIA driver 470.57.02 (Tesla V100) runs CUDA up to 11.4 and is too old for this PyTorch") == 1
    )
    assert "needs driver 580 or newer." in text
    assert "fix update the driver, or install a PyTorch built for CUDA 11" in text
    assert "driver: 470.57.02)" in text
    assert found["choices"]["device"]["value"] == "cpu"


def test_a_triton_that_cannot_start_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, (9, 0))
    monkeypatch.setattr(gpus, "triton_trouble", lambda: gpus.Trouble("Triton needs a C compiler", "install one"))
    found = doctor.report()
    assert found["choices"]["kernels"] == {"value": "none", "why": "Triton needs a C compiler"}
    assert "broken Triton needs a C compiler." in " ".join(told(found).split())


@pytest.mark.parametrize(
    ("gpu", "there", "chosen"),
    [(False, {"native"}, "native"), (False, {"triton"}, "reference"), (True, {"native"}, "reference"),
     (True, {"native", "triton"}, "triton"), (False, set(), "reference")],
)  # fmt: skip
def test_kernels_that_will_be_used(monkeypatch: pytest.MonkeyPatch, gpu: bool, there: set[str], chosen: str) -> None:
    import fastlift_kernels

    kernels = {
        "native": "native" in there,
        "triton": "triton" in there,
        "native_isa": "avx2",
        "native_reason": "no compiler",
    }
    monkeypatch.setattr(fastlift_kernels, "available", lambda: kernels)
    if gpu:
        pretend_gpus(monkeypatch, (9, 0))
    choice = doctor.report()["choices"]["kernels"]
    assert choice["value"] == chosen
    if not gpu and not there:
        assert "no native kernels: no compiler" in choice["why"]


def test_kernels_on_this_machine_are_those_that_the_ops_take() -> None:
    import fastlift_kernels.dispatch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    taken = fastlift_kernels.dispatch.choose(None, "t", torch.zeros(1, device=device))
    assert doctor.report()["choices"]["kernels"]["value"] == taken


def test_broken_choice_is_described_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[str, str]:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(CHOICES, "executor", broken)
    found = doctor.report()
    assert found["choices"]["executor"] == {"value": "broken", "why": "RuntimeError: no such thing"}
    assert "Choosing the executor fails: RuntimeError: no such thing" in " ".join(told(found).split())


def test_broken_kernels_package_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastlift_kernels

    def broken() -> dict[str, Any]:
        raise OSError("libgomp is missing")

    monkeypatch.setattr(fastlift_kernels, "available", broken)
    found = doctor.report()
    assert found["kernels"] == {"importable": False, "error": "OSError: libgomp is missing"}
    assert "fastlift_kernels does not load: OSError: libgomp is missing" in " ".join(told(found).split())


@pytest.mark.parametrize("width", [60, 100])
def test_everything_is_told(width: int) -> None:
    found = doctor.report()
    text = told(found, width)
    words = "".join(text.split())  # long words are folded on narrow terminals
    for name, version in ((entry["name"], entry["version"]) for entry in found["packages"]):
        assert f"{name}{version or '(notinstalled)'}" in words
    for flag in ("--device auto", "--amp auto", "--executor auto", "kernels", "shipped CLIP", "cache"):
        assert flag in text
    for entry in found["advice"]:
        for part in ("what", "cost", "fix"):
            assert "".join(entry[part].split()) in words
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_square_brackets_are_not_markup() -> None:
    found = doctor.report()
    found["cpu"]["name"] = "CPU [bold] 3000"
    assert "CPU [bold] 3000" in told(found)


@pytest.mark.parametrize(
    ("capability", "supported"),
    [((6, 1), []), ((7, 0), ["fp16"]), ((7, 5), ["fp16"]), ((8, 0), ["fp16", "bf16"]), ((8, 6), ["fp16", "bf16"]),
     ((8, 9), ["fp16", "bf16", "fp8"]), ((9, 0), ["fp16", "bf16", "fp8"]), ((12, 0), ["fp16", "bf16", "fp8"])],
)  # fmt: skip
def test_dtypes_by_capability(capability: tuple[int, int], supported: list[str]) -> None:
    assert [name for name, there in facts.dtype_support(capability).items() if there] == supported


def test_packages_and_ranges_come_from_the_package_s_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.9,!=2.10.0",
        'triton>=3.5; platform_system != "Windows" and python_version >= "3"',
        'nvidia-dali-cuda130>=2.0; platform_system != "Windows" and extra == "dali"',
        'pytest>=8; extra == "test"',
        'winonly; platform_system == "Windows"',
    ]
    monkeypatch.setattr(facts, "requires", lambda name: lines)
    monkeypatch.setattr(facts, "installed", lambda name: {"torch": "2.9.0", "fastlift": "0.1"}.get(name))
    assert facts.software_facts()["packages"] == [
        {"name": "fastlift", "version": "0.1", "range": "", "fits": True, "optional": False},
        {"name": "torch", "version": "2.9.0", "range": "!=2.10.0,>=2.9", "fits": True, "optional": False},
        {"name": "triton", "version": None, "range": ">=3.5", "fits": True, "optional": False},
        {"name": "nvidia-dali-cuda130", "version": None, "range": ">=2.0", "fits": True, "optional": True},
    ]


@pytest.mark.parametrize(
    ("installed", "fits"),
    [("2.9", True), ("2.9.0", True), ("2.10.0", False), ("2.10.1+cu130", True), ("2.8.9", False), ("2.9.0.dev1", False),
     ("2.16.0rc1", True), ("3", True)],
)  # fmt: skip
def test_a_version_outside_the_range_does_not_fit(monkeypatch: pytest.MonkeyPatch, installed: str, fits: bool) -> None:
    monkeypatch.setattr(facts, "requires", lambda name: ["torch>=2.9,!=2.10.0"])
    monkeypatch.setattr(facts, "installed", lambda name: installed)
    assert [entry["fits"] for entry in facts.software_facts()["packages"]] == [True, fits]
