"""Compiling one Triton kernel for an architecture, without a GPU, and reading what its code needs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@dataclass(frozen=True)
class Resources:
    """What one case needs on one architecture."""

    registers: int
    spilled: int
    shared: int
    matrix: str


def compile_case(case: Any, architecture: int) -> Resources:
    """Compile one case as the just-in-time compiler would for these arguments, and read the cubin's resource usage."""
    signature: dict[str, str] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    names = list(case.kernel.arg_names)
    for index, name in enumerate(names):
        value = case.constants[name] if name in case.constants else case.arguments[name]
        if name in case.constants or value is None:
            signature[name] = "constexpr"
            constants[(index,)] = value
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = value
            if value.startswith("*"):
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(case.kernel, signature, constants, attributes)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    registers, spilled = _usage(compiled.asm["cubin"])
    kinds = re.findall(r"\b(wgmma|tcgen05\.mma|mma)\b[.\w]*\.(?:sync|aligned|cta_group)", compiled.asm["ptx"])
    matrix = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return Resources(registers, spilled, compiled.metadata.shared, matrix or "none")


def _usage(cubin: bytes) -> tuple[int, int]:
    """(registers a thread, bytes of stack) of the one kernel in a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {done.stdout[:200]}")
    return int(found[1]), int(found[2])
