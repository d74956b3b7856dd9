"""What is missing or amiss, what it costs, and a command that helps: a pure function of the facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastlift.doctor.facts import DALI
from fastlift.system.machine.threads import BY_USER

SEVERITIES = ("broken", "slow", "note")
"""broken: something does not work; slow: it works, but time or memory is lost; note: good to know."""

NEEDED_MEMORY_GIB = 1.25  # the largest resident set measured of the default training is 1.2, most of it libraries
NEEDED_DISK_GIB = 1.0
REINSTALL = "pip install --force-reinstall --no-deps .   (in fastlift's repository)"


@dataclass(frozen=True)
class Advice:
    """One finding: what is amiss, what that costs, and what to do; fix may be empty where nothing can be done here."""

    severity: str
    what: str
    cost: str
    fix: str


def advise(facts: Mapping[str, Any]) -> list[Advice]:
    """All findings, the worst first.

    Args:
        facts: the sections that `fastlift.doctor.report` finds.
    """
    rules = (_packages, _gpu, _kernels, _backend, _resources, _broken)
    findings = [entry for rule in rules for entry in rule(facts)]
    return sorted(findings, key=lambda entry: SEVERITIES.index(entry.severity))


def _packages(facts: Mapping[str, Any]) -> Iterator[Advice]:
    for package in facts["packages"]:
        name, found = package["name"], package["version"]
        if not package["fits"]:
            what = f"{name} is {found}; fastlift is made for {name}{package['range']}."
            yield Advice("broken", what, "Parts of fastlift fail.", f"pip install '{name}{package['range']}'")
        elif package["optional"]:
            continue  # what lacks without it is said where it would be used
        elif name == "fastlift":
            if found is None:
                what = "fastlift itself is not installed; it runs from a folder of source files."
                cost = "The fastlift command and the compiled kernels are absent."
                yield Advice("note", what, cost, "pip install -e .")
        elif found is None and name != "triton":
            yield Advice("broken", f"The package {name} is not installed.", "fastlift needs it.", f"pip install {name}")


def _gpu(facts: Mapping[str, Any]) -> Iterator[Advice]:
    cuda, trouble = facts["cuda"], facts["cuda"]["trouble"]
    cost = "Training and evaluation run on the CPU: fine for shapes_lt, long for a ViT-B/16 on a large set."
    if trouble is not None:
        yield Advice("slow", f"{_sentence(trouble['what'])}.", cost, trouble["fix"])
    elif cuda["available"]:
        yield from _old_gpus(facts["gpus"])
    elif cuda["driver"] is None:
        yield Advice("note", "No NVIDIA driver is loaded, so there is no GPU to use.", cost, "")
    else:
        what = f"The GPUs are hidden: CUDA_VISIBLE_DEVICES is {cuda['visible_devices']!r}."
        yield Advice("slow", what, cost, "unset CUDA_VISIBLE_DEVICES")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _old_gpus(gpus: list[Mapping[str, Any]]) -> Iterator[Advice]:
    for index, gpu in enumerate(gpus):
        if not gpu["bf16"]:
            major, minor = gpu["capability"]
            what = f"GPU {index} ({gpu['name']}, capability {major}.{minor}) has no bf16 matrix units."
            cost = "--amp auto takes fp16, whose narrow range needs loss scaling; results may differ slightly."
            yield Advice("note", what, cost, "")
    if len({gpu["name"] for gpu in gpus}) > 1:
        cost = "In a run on all of them, the fastest wait for the slowest."
        yield Advice("note", "The GPUs are of different kinds.", cost, "choose with CUDA_VISIBLE_DEVICES")


def _kernels(facts: Mapping[str, Any]) -> Iterator[Advice]:
    kernels = facts["kernels"]
    if not kernels["importable"]:
        what = f"fastlift_kernels does not load: {kernels['error']}"
        yield Advice("broken", what, "Nothing trains without it.", REINSTALL)
        return
    if facts["cuda"]["available"] and (trouble := kernels.get("triton_trouble")) is not None:
        cost = "Commands refuse to work on the GPU, unless Triton's cache holds what it would compile."
        yield Advice("broken", f"{trouble['what']}.", cost, trouble["fix"])
    elif facts["cuda"]["available"] and not kernels.get("triton"):
        reason = kernels.get("triton_reason") or "no reason was given"
        cost = "The fused operations run as plain PyTorch on the GPU: more memory traffic and launches a step."
        fix = "pip install triton" if not _version(facts, "triton") else ""
        yield Advice("slow", f"The Triton kernels cannot be used: {reason}.", cost, fix)
    if not kernels.get("native"):
        reason = kernels.get("native_reason") or "no reason was given"
        cost = kernels.get("cost_without_native") or "The fused operations run as plain PyTorch on the CPU."
        fix = f"install a C++ compiler (apt-get install g++), then {REINSTALL}"
        severity = "note" if facts["cuda"]["available"] else "slow"
        yield Advice(severity, f"The native CPU kernels are not there: {reason}.", _sentence(cost), fix)
    elif kernels.get("native_openmp") is False and facts["cpu"]["threads"] > 1:
        what = "The native CPU kernels were compiled without OpenMP."
        cost = f"They use one thread of {facts['cpu']['threads']}."
        yield Advice("slow", what, cost, f"install a compiler with OpenMP (apt-get install g++), then {REINSTALL}")


def _backend(facts: Mapping[str, Any]) -> Iterator[Advice]:
    if facts["system"]["machine"] != "x86_64" or _version(facts, DALI) or not facts["cuda"]["available"]:
        return  # it is used for GPUs alone
    if not any(package["name"] == DALI for package in facts["packages"]):
        return  # not offered on this platform
    cost = "torchvision reads the images, with the same crops. Costs CPU time where the GPU waits for decoded images."
    yield Advice("slow", "DALI is not installed.", cost, f"pip install {DALI}")


def _resources(facts: Mapping[str, Any]) -> Iterator[Advice]:
    cpu, available, cache = facts["cpu"], facts["memory"]["available_gib"], facts["cache"]
    allowed = min(cpu["cpus"], cpu["quota"] or cpu["cpus"])
    if cpu["threads"] > max(1, int(allowed + 0.5)):
        what = f"PyTorch starts {cpu['threads']} threads, but this process may use {allowed:g} CPUs."
        cost = "Threads wait for each other; steps get slower, not faster."
        yield Advice("slow", what, cost, "unset OMP_NUM_THREADS   (the fastlift command then chooses)")
    wait = facts["choices"]["wait"]
    if wait["why"] == BY_USER and not wait["value"].upper().endswith(("=PASSIVE", "=0")):
        cost = "Threads that spin while they wait take the cores from other work, and it theirs."
        yield Advice("note", f"{wait['value']} is set.", cost, f"unset {wait['value'].partition('=')[0]}")
    if available is not None and available < NEEDED_MEMORY_GIB:
        what = f"Only {available:.1f} GiB of memory are free."
        cost = f"Training on the default set takes up to {NEEDED_MEMORY_GIB:g} GiB, and may be slow or be killed."
        fix = "fastlift train --micro-batch 32   (the same result in 0.2 GiB less), or end other programs"
        yield Advice("slow", what, cost, fix)
    if not cache["writable"]:
        what = f"The cache folder {cache['folder']} cannot be written."
        cost = "Drawn images, indices and text features cannot be kept; commands that need them fail."
        yield Advice("broken", what, cost, "export FASTLIFT_CACHE=/a/folder/that/you/own")
    elif cache["free_gib"] < NEEDED_DISK_GIB:
        what = f"Only {cache['free_gib']:.1f} GiB are free where the cache lies ({cache['folder']})."
        cost = "Caches and downloads may fill the disk."
        yield Advice("slow", what, cost, "export FASTLIFT_CACHE=/a/folder/with/room")
    if not facts["shipped_clip"]["present"]:
        what = f"The small shipped CLIP is incomplete: {', '.join(facts['shipped_clip']['missing'])} missing."
        cost = "fastlift train without --model has no backbone."
        fix = "git checkout fastlift/assets, or make it again: python scripts/pretrain_clip.py"
        yield Advice("broken", what, cost, fix)


def _broken(facts: Mapping[str, Any]) -> Iterator[Advice]:
    for name, choice in facts["choices"].items():
        if choice["value"] == "broken":
            yield Advice("broken", f"Choosing the {name} fails: {choice['why']}", "Training fails in the same way.", "")


def _version(facts: Mapping[str, Any], name: str) -> str | None:
    return next((package["version"] for package in facts["packages"] if package["name"] == name), None)
