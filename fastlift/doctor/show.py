"""The doctor's findings on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fastlift.doctor.facts import gib_text

_STYLES = {"broken": "bold red", "slow": "yellow", "note": "cyan"}


def render(found: Mapping[str, Any]) -> RenderableType:
    """Machine, choices, packages and advice, as one renderable that also reads well without colour."""
    parts: list[RenderableType] = [
        Text("What this machine has", style="bold"),
        _rows(_machine_rows(found)),
        Text("What fastlift will use", style="bold"),
        _rows([(_FLAGS[name], f"{choice['value']}  ({choice['why']})") for name, choice in found["choices"].items()]),
        Text("Software", style="bold"),
        _rows(_software_rows(found)),
    ]
    advice = found["advice"]
    parts.append(Text("What is missing" if advice else "Nothing is missing.", style="bold"))
    parts += [Padding(_advice(entry), (0, 0, 1, 2)) for entry in advice]
    return Group(*parts)


_FLAGS = {name: f"--{name} auto" for name in ("device", "amp", "executor", "compile")} | {
    "threads": "threads",
    "wait": "waiting threads",
    "workers": "decoding threads",
    "kernels": "kernels",
}


def _rows(rows: list[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return Padding(table, (0, 0, 1, 2))


def _machine_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    cpu, memory, cuda = found["cpu"], found["memory"], found["cuda"]
    quota = f", limited to {cpu['quota']:g} CPUs' time" if cpu["quota"] else ""
    hyper = f" ({cpu['cpus']} hardware threads)" if cpu["cpus"] != cpu["cores"] else ""
    limit = ", by the limit of a control group" if memory["limited"] else ""
    flags = f", {' '.join(cpu['flags'])}" if cpu["flags"] else ""
    rows = [
        ("system", f"{found['system']['name']}, {found['system']['machine']}, kernel {found['system']['kernel']}"),
        ("python", found["python"]["version"] + ("" if found["python"]["environment"] else ", no virtual environment")),
        ("cpu", f"{cpu['name']}: {cpu['cores']} cores{hyper}{quota}{flags}"),
        ("memory", f"{gib_text(memory['total_gib'])}, {gib_text(memory['available_gib'])} free{limit}"),
    ]
    for index, gpu in enumerate(found["gpus"]):
        dtypes = " ".join(name for name in ("fp16", "bf16", "fp8") if gpu[name]) or "fp32 only"
        capability = ".".join(map(str, gpu["capability"]))
        told = f"{gpu['name']}, capability {capability}, {gib_text(gpu['memory_gib'])}, multiplies {dtypes}"
        rows.append((f"gpu {index}", told))
    if not found["gpus"]:
        built = f"built for CUDA {cuda['built_for']}" if cuda["built_for"] else "built without CUDA"
        rows.append(("gpu", f"none that PyTorch can use (PyTorch is {built}; driver: {cuda['driver'] or 'none'})"))
    return rows


def _software_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    kernels, cache, clip = found["kernels"], found["cache"], found["shipped_clip"]
    packages = ", ".join(f"{entry['name']} {entry['version'] or '(not installed)'}" for entry in found["packages"])
    if not kernels["importable"]:
        state = f"do not load: {kernels['error']}"
    else:
        native = f"native {kernels.get('native_isa') or ''}".strip() if kernels.get("native") else "no native"
        state = f"reference, {native}, {'triton' if kernels.get('triton') else 'no triton'}"
    kept = f"{cache['size_mib']:.0f} MiB" if cache["exists"] else "not made yet"
    return [
        ("packages", packages),
        ("kernels", state),
        ("cache", f"{cache['folder']}: {kept}, {cache['free_gib']:.1f} GiB free"),
        ("shipped CLIP", "there" if clip["present"] else f"incomplete, lacks {', '.join(clip['missing'])}"),
    ]


def _advice(entry: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(entry["severity"], style=_STYLES[entry["severity"]]), Text(entry["what"]))
    table.add_row(Text("cost", style="dim"), Text(entry["cost"]))
    if entry["fix"]:
        table.add_row(Text("fix", style="dim"), Text(entry["fix"]))
    return table
