"""What the doctor advises, on machines described as facts: each finding appears where its cause is, and only there."""

from copy import deepcopy
from typing import Any

import pytest

from fastlift.doctor.advice import SEVERITIES, Advice, advise
from fastlift.doctor.facts import DALI


def package(name: str, version: str | None, *, optional: bool = False) -> dict[str, Any]:
    return {"name": name, "version": version, "range": ">=2,<3", "fits": True, "optional": optional}


HEALTHY: dict[str, Any] = {
    "python": {"version": "3.11.7", "environment": True},
    "system": {"name": "Linux", "kernel": "6", "machine": "x86_64"},
    "cpu": {"name": "cpu", "cpus": 16, "cores": 16, "quota": None, "threads": 16, "flags": ["avx2"]},
    "memory": {"total_gib": 64.0, "available_gib": 50.0},
    "gpus": [
        {"name": "H100", "capability": [9, 0], "memory_gib": 79.0, "multiprocessors": 132, "fp16": True, "bf16": True, "fp8": True}
    ],
    "cuda": {"available": True, "built_for": "13.0", "driver": "580", "visible_devices": None, "trouble": None},
    "packages": [
        package("fastlift", "0.1"),
        package("torch", "2.14.1"),
        package("triton", "3.8.0"),
        package(DALI, "2.4.0", optional=True),
    ],
    "kernels": {"importable": True, "reference": True, "native": True, "native_isa": "avx2", "triton": True},
    "choices": {
        name: {"value": "x", "why": "y"} for name in ("device", "amp", "threads", "executor", "workers", "compile", "kernels")
    } | {"wait": {"value": "OMP_WAIT_POLICY=PASSIVE", "why": "y"}},
    "cache": {"folder": "/cache", "exists": True, "size_mib": 1.0, "writable": True, "free_gib": 100.0},
    "shipped_clip": {"present": True, "missing": []},
}  # fmt: skip

NO_GPU = {"available": False, "driver": None}


def changed(**sections: Any) -> list[Advice]:
    """Advice for the healthy machine with some entries of its sections replaced."""
    facts = deepcopy(HEALTHY)
    for section, values in sections.items():
        facts[section] = {**facts[section], **values} if isinstance(values, dict) else values
    return advise(facts)


def without(name: str) -> list[dict[str, Any]]:
    return [{**entry, "version": None} if entry["name"] == name else entry for entry in HEALTHY["packages"]]


def outside(name: str) -> list[dict[str, Any]]:
    """All packages, that one outside its range."""
    return [{**entry, "fits": entry["name"] != name} for entry in HEALTHY["packages"]]


def test_healthy_machine_needs_nothing() -> None:
    assert advise(HEALTHY) == []


@pytest.mark.parametrize(
    ("sections", "severity", "what", "fix"),
    [
        ({"packages": without("torch")}, "broken", "torch is not installed", "pip install torch"),
        ({"packages": outside("torch")}, "broken", "torch is 2.14.1; fastlift is made for torch>=2,<3", "'torch>=2,<3'"),
        ({"packages": outside(DALI)}, "broken", f"{DALI} is 2.4.0; fastlift is made for", f"'{DALI}>=2,<3'"),
        ({"packages": without("fastlift")}, "note", "not installed", "pip install -e ."),
        ({"packages": without(DALI)}, "slow", "DALI is not installed", f"pip install {DALI}"),
        ({"cuda": NO_GPU}, "note", "No NVIDIA driver", ""),
        ({"cuda": {"available": False, "trouble": {"what": "this is too old", "fix": "update it"}}}, "slow", "This is too old.", "update it"),
        ({"cuda": {"trouble": {"what": "the GPU is too new", "fix": "a newer one"}}}, "slow", "The GPU is too new.", "a newer one"),
        ({"cuda": {"available": False, "visible_devices": ""}}, "slow", "hidden", "unset CUDA_VISIBLE_DEVICES"),
        ({"kernels": {"importable": False, "error": "boom"}}, "broken", "does not load: boom", "--no-deps"),
        ({"kernels": {"triton": False, "triton_reason": "no ptxas"}}, "slow", "no ptxas", ""),
        ({"kernels": {"triton_trouble": {"what": "no gcc", "fix": "install it"}}}, "broken", "no gcc.", "install it"),
        ({"kernels": {"native": False, "native_reason": "no compiler"}}, "note", "no compiler", "g++"),
        ({"kernels": {"native_openmp": False}}, "slow", "without OpenMP", "g++"),
        ({"cpu": {"threads": 32}}, "slow", "32 threads, but this process may use 16", "unset OMP_NUM_THREADS"),
        ({"cpu": {"quota": 2.0}}, "slow", "16 threads, but this process may use 2 CPUs", "unset OMP_NUM_THREADS"),
        ({"choices": {"wait": {"value": "OMP_WAIT_POLICY=ACTIVE", "why": "set in the environment"}}}, "note", "ACTIVE is set", "unset OMP_WAIT_POLICY"),
        ({"memory": {"available_gib": 1.1}}, "slow", "1.1 GiB of memory", "--micro-batch"),
        ({"cache": {"writable": False}}, "broken", "cannot be written", "FASTLIFT_CACHE"),
        ({"cache": {"free_gib": 0.2}}, "slow", "0.2 GiB are free", "FASTLIFT_CACHE"),
        ({"shipped_clip": {"present": False, "missing": ["w"]}}, "broken", "incomplete: w missing", "pretrain_clip.py"),
        ({"choices": {"amp": {"value": "broken", "why": "E: x"}}}, "broken", "Choosing the amp fails: E: x", ""),
    ],
)  # fmt: skip
def test_one_cause_one_finding(sections: dict[str, Any], severity: str, what: str, fix: str) -> None:
    [finding] = changed(**sections)
    assert finding.severity == severity
    assert what in finding.what
    assert fix in finding.fix
    assert bool(fix) == bool(finding.fix)
    assert finding.cost


def test_missing_triton_is_told_once_and_with_the_command() -> None:
    [finding] = changed(packages=without("triton"), kernels={"triton": False, "triton_reason": "not installed"})
    assert finding.fix == "pip install triton"


def test_cpu_machine_judges_native_and_dali_by_what_it_uses() -> None:
    found = changed(
        cuda=NO_GPU, gpus=[], kernels={"native": False, "triton": False, "cost_without_native": "it is slower."},
        packages=without(DALI),
    )  # fmt: skip
    assert [(entry.severity, entry.what.split()[0]) for entry in found] == [
        ("slow", "The"),
        ("note", "No"),
    ]
    assert found[0].cost == "It is slower."


def test_dali_is_not_asked_for_where_there_is_none() -> None:
    packages = [entry for entry in HEALTHY["packages"] if entry["name"] != DALI]
    assert changed(packages=packages) == []
    assert changed(packages=without(DALI), system={"machine": "aarch64"}) == []


def test_old_and_mixed_gpus() -> None:
    old = {**HEALTHY["gpus"][0], "name": "V100", "capability": [7, 0], "bf16": False}
    found = changed(gpus=[HEALTHY["gpus"][0], old])
    assert [entry.severity for entry in found] == ["note", "note"]
    assert "GPU 1 (V100, capability 7.0)" in found[0].what
    assert "different kinds" in found[1].what


def test_worst_comes_first() -> None:
    found = changed(packages=without("torch"), cuda=NO_GPU, memory={"available_gib": 0.5}, cache={"writable": False})
    ranks = [SEVERITIES.index(entry.severity) for entry in found]
    assert len(found) >= 4
    assert ranks == sorted(ranks)
