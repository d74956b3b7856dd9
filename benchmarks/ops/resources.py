"""Compile every shipped Triton kernel configuration for six GPU architectures, without a GPU, and print what it needs.

    python benchmarks/ops/resources.py                     # the full table, kept in benchmarks/results/
    python benchmarks/ops/resources.py --arch 90 --quick   # bf16 and tf32 of the usual ranks on one architecture

Columns: registers a thread, bytes spilled (a kernel's STACK in the cubin), dynamic shared memory and its limit, matrix
instructions by kind, seconds of compilation. Any spill, or shared memory over the limit, makes the program exit with 1.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastlift_kernels.activation import gpu as activation
from fastlift_kernels.adapter import gpu as adapter
from fastlift_kernels.cosine_ce import gpu as cosine

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# Bytes of dynamic shared memory a block may use (CUDA programming guide, table of compute capabilities).
SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
RANKS = (4, 32, 33, 64, 128, 256, 512)  # 33: not a multiple of 16, so with unaligned rows
QUICK_RANKS = (4, 32, 256)
TABLE_HEAD = (
    "| kernel | warps/stages | sm | registers | spilled bytes | shared bytes | limit | matrix instructions | seconds |",
    "|---|---|---|---|---|---|---|---|---|",
)
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Case:
    """One kernel with the arguments that decide its code."""

    name: str
    kernel: Any
    arguments: dict[str, Any]  # "*bf16" and the like, an int (its divisibility matters), a float type, or None
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Resources:
    """What one case needs on one architecture."""

    registers: int
    spilled: int
    shared: int
    matrix: str
    seconds: float


def _blocks(configuration: dict[str, int]) -> tuple[dict[str, Any], int, int]:
    blocks = dict(configuration)
    warps, stages = blocks.pop("num_warps", 4), blocks.pop("num_stages", 3)
    return blocks, warps, stages


def _pointers(names: str, kind: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), f"*{kind}")


def _case(name: str, kernel: Any, arguments: dict[str, Any], configuration: dict[str, int], **constants: Any) -> Case:
    blocks, warps, stages = _blocks(configuration)
    return Case(name, kernel, arguments, {**constants, **blocks}, warps, stages)


def adapter_cases(dtype: torch.dtype, precision: str, rank: int, width: int = 768) -> Iterator[Case]:
    """The kernels of the adapter with LN_2, a learned scale, float32 parameters and all gradients."""
    kind = NAMES[dtype]
    label = f"{kind}{'/' + precision if dtype == torch.float32 else ''} rank {rank}"
    sizes = {"N": 3152, "D": width, "r": rank}
    floats = {"fixed_scale": "fp32", "eps": "fp32", "ln_eps": "fp32"}
    yield _case(
        f"adapter forward {label}", adapter.forward_kernel,
        {
            "t": f"*{kind}",
            **_pointers("ln2_weight ln2_bias ln_weight ln_bias down_weight down_bias up_weight up_bias scale", "fp32"),
            **_pointers("ln2 residual", kind), **_pointers("mean_out variance_out", "fp32"),
            "hidden_out": f"*{kind}", **sizes, **floats,
        },
        adapter.configuration(adapter.FORWARD, rank, dtype), PRECISION=precision,
    )  # fmt: skip
    yield _case(
        f"adapter tokens backward {label}", adapter.tokens_backward_kernel,
        {
            **_pointers("t d_ln2 d_residual", kind), **_pointers("mean_in variance_in", "fp32"), "hidden": f"*{kind}",
            **_pointers("ln2_weight ln_weight down_weight up_weight scale row_sum base", "fp32"),
            **_pointers("d_t d_pre", kind), **sizes, **floats,
        },
        adapter.configuration(adapter.TOKENS, rank, dtype), PRECISION=precision,
    )  # fmt: skip
    if rank <= 64:  # larger ranks run the configuration of 64
        yield _case(
            f"adapter width backward {label}", adapter.width_backward_kernel,
            {
                **_pointers("t d_residual", kind), **_pointers("mean_in variance_in", "fp32"),
                **_pointers("hidden d_pre", kind),
                **_pointers("hidden_residual pre_normed residual_sum pre_sum", "fp32"), **sizes, "span": 256, "ln_eps": "fp32",
            },
            adapter.configuration(adapter.WIDTH, rank, dtype), PRECISION=precision,
        )  # fmt: skip


def adapter_parameter_cases(rank: int, width: int = 768) -> Iterator[Case]:
    """The two kernels of the adapter's backward without products."""
    yield _case(
        f"adapter parameters backward rank {rank}", adapter.parameters_backward_kernel,
        {
            **_pointers("hidden_residual pre_normed residual_sum pre_sum", "fp32"),
            **_pointers("ln_weight ln_bias down_weight up_weight up_bias scale", "fp32"),
            **_pointers("d_ln_weight d_ln_bias d_down_weight d_down_bias d_up_weight d_up_bias d_scale", "fp32"),
            "D": width, "r": rank, "S": 13, "fixed_scale": "fp32",
        },
        adapter.PARAMETERS_BLOCKS,
    )  # fmt: skip
    yield _case(
        f"adapter bottleneck sums rank {rank}", adapter.bottleneck_sums_kernel,
        {**_pointers("ln_weight ln_bias down_weight down_bias row_sum base", "fp32"), "D": width, "r": rank},
        adapter.SUMS_BLOCKS,
    )  # fmt: skip


def cosine_cases(dtype: torch.dtype, precision: str, batch: int, smooth: bool) -> Iterator[Case]:
    """The kernels with products of the classifier with its loss: prior, both norms; class weights where ``smooth``."""
    kind = NAMES[dtype]
    label = f"{kind}{'/' + precision if dtype == torch.float32 else ''} batch {batch}{' smoothed' if smooth else ''}"
    configuration = cosine.configuration(batch, dtype)
    weighted = "*fp32" if smooth else None
    inputs = {
        "features": f"*{kind}", "weight": "*fp32", "labels": "*i64", "log_prior": "*fp32", "bias": weighted,
        "class_weight": weighted, "inverse_f": "*fp32", "inverse_w": "*fp32",
    }  # fmt: skip
    sizes = {"B": batch, "D": 768, "C": 8142}
    constants = {"SMOOTH": smooth, "PRECISION": precision}
    yield _case(
        f"classifier forward {label}", cosine.forward_kernel,
        {
            **inputs, **_pointers("top_out sum_out own_out smooth_out best_out", "fp32"), "where_out": "*i32",
            **sizes, "span": 128, "scale": "fp32", "tau": "fp32",
        },
        configuration, **constants,
    )  # fmt: skip
    shared = {**inputs, "weight_total": weighted, "lse_in": "*fp32", "counted": "*fp32", "d_loss": "*fp32"}
    floats = {"scale": "fp32", "tau": "fp32", "smoothing": "fp32", "ignored": -100}
    yield _case(
        f"classifier weight backward {label}", cosine.weight_backward_kernel,
        {**shared, "d_weight": "*fp32", "d_bias": weighted, **sizes, **floats}, configuration, **constants,
    )  # fmt: skip
    yield _case(
        f"classifier features backward {label}", cosine.features_backward_kernel,
        {**shared, "partial": "*fp32", "along_out": "*fp32", **sizes, "span": 256, **floats}, configuration, **constants,
    )  # fmt: skip


def small_cases() -> Iterator[Case]:
    """The kernels without products of the classifier and the activations."""
    yield _case(
        "classifier inverse norms bf16", cosine.inverse_norms_kernel,
        {"x": "*bf16", "inverse": "*fp32", "rows_total": 8142, "D": 768, "floor": "fp32"}, cosine.NORM_BLOCKS,
    )  # fmt: skip
    yield _case(
        "classifier combine smoothed", cosine.combine_kernel,
        {
            **_pointers("top_in sum_in own_in smooth_in best_in", "fp32"), "where_in": "*i32", "labels": "*i64",
            **_pointers("class_weight weight_total lse_out loss_out counted_out", "fp32"), "predictions": "*i64",
            "B": 128, "C": 8142, "S": 64, "smoothing": "fp32", "ignored": -100,
        },
        cosine.COMBINE_BLOCKS, SMOOTH=True,
    )  # fmt: skip
    yield _case(
        "classifier features combine bf16", cosine.features_combine_kernel,
        {
            "partial": "*fp32", "along_in": "*fp32", "features": "*bf16", "inverse_f": "*fp32", "d_features": "*fp32",
            "B": 128, "D": 768, "S": 32,
        },
        cosine.FEATURES_COMBINE_BLOCKS,
    )  # fmt: skip
    for quick, name in ((True, "QuickGELU"), (False, "GELU")):
        for direction, kernel, pointers in (
            ("forward", activation.forward_kernel, "x y"),
            ("backward", activation.backward_kernel, "d_y x d_x"),
        ):
            yield _case(
                f"{name} {direction} bf16", kernel, {**_pointers(pointers, "bf16"), "count": 9_682_944},
                {"BLOCK": activation.BLOCK}, QUICK=quick,
            )  # fmt: skip


def cases(quick: bool = False) -> list[Case]:
    """All shipped configurations; with ``quick`` the usual ones in bf16."""
    if quick:
        found = [case for rank in QUICK_RANKS for case in adapter_cases(torch.bfloat16, "ieee", rank)]
        return [*found, *adapter_parameter_cases(32), *cosine_cases(torch.bfloat16, "ieee", 128, False), *small_cases()]
    kinds = ((torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee"))
    found = [
        case
        for kind in kinds
        for rank in RANKS
        if rank != 33 or kind[0] == torch.bfloat16
        for case in adapter_cases(*kind, rank)
    ]
    found += adapter_cases(torch.float16, "ieee", 32)  # the configurations and instruction shapes of bf16
    found += [case for rank in (4, 32, 512) for case in adapter_parameter_cases(rank)]
    for kind in kinds:
        found += [case for batch in (16, 128) for case in cosine_cases(*kind, batch, False)]
        found += cosine_cases(*kind, 128, True)
    return [*found, *small_cases()]


def compile_case(case: Case, architecture: int) -> Resources:
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
    started = time.perf_counter()
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    seconds = time.perf_counter() - started
    registers, spilled = _usage(compiled.asm["cubin"])
    kinds = re.findall(r"\b(wgmma|tcgen05\.mma|mma)\b[.\w]*\.(?:sync|aligned|cta_group)", compiled.asm["ptx"])
    matrix = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return Resources(registers, spilled, compiled.metadata.shared, matrix or "none", seconds)


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


def sources() -> str:
    """A fingerprint of the kernels' source files: rows of a table with another one are stale."""
    digest = hashlib.sha256()
    for module in (adapter, cosine, activation):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


def known_rows(table: Path, header: str) -> dict[tuple[str, int], str]:
    """Rows of an earlier table of the same kernels and versions by (kernel, architecture)."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    if not lines or lines[0] != header:
        return {}
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if re.match(r"\| .*\| \d+ \|", line)]
    rows = [line for line in lines if re.match(r"\| .*\| \d+ \|", line)]
    return {(cell[1], int(cell[3])): row for cell, row in zip(cells, rows, strict=True)}


def row_of(case: Case, architecture: int) -> str:
    """Compile one case and write its line of the table; a line over a limit ends with **over**."""
    got, limit = compile_case(case, architecture), SHARED_LIMIT[architecture]
    over = " **over**" if got.spilled > 0 or got.shared > limit else ""
    return (
        f"| {case.name} | {case.num_warps}/{case.num_stages} | {architecture} | {got.registers} | {got.spilled} | "
        f"{got.shared} | {limit} | {got.matrix} | {got.seconds:.1f} |{over}"
    )


def main() -> int:
    """Print the table, keep it where --output says, and return 1 if a kernel spills or needs too much shared memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="*", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--output", type=Path, help="keep the table in this Markdown file; its rows that still hold are kept"
    )
    arguments = parser.parse_args()
    header = (
        f"Triton {triton.__version__}, torch {torch.__version__}, kernel sources {sources()}; compiled without a GPU."
    )
    lines = [header, "", *TABLE_HEAD]
    print("\n".join(lines))
    known = known_rows(arguments.output, header) if arguments.output else {}
    for case in cases(arguments.quick):
        if arguments.match not in case.name:
            continue
        for architecture in arguments.arch:
            lines.append(known.get((case.name, architecture)) or row_of(case, architecture))
            print(lines[-1], flush=True)
    failed = sum(line.endswith("**over**") for line in lines)
    lines += ["", f"{failed} over a limit."]
    print(lines[-1])
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
