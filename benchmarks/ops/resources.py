"""Compile every shipped Triton kernel configuration for six GPU architectures, without a GPU, and print what it needs.

    python benchmarks/ops/resources.py                     # the full table, kept in benchmarks/results/
    python benchmarks/ops/resources.py --arch 90 --quick   # bf16 and tf32 of the usual ranks on one architecture

Columns: registers a thread, bytes spilled (a kernel's STACK in the cubin), dynamic shared memory and its limit, matrix
instructions by kind, and a fingerprint of code and case. Any spill, or shared memory over the limit, makes the program exit with 1.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from attention_calls import CALLS, arguments, constants, kernels
from compiled import compile_case
from kept_rows import fingerprint, known_rows

from fastlift_kernels.activation import gpu as activation
from fastlift_kernels.adapter import folded, fused_backward, fused_forward, parameters_backward, wide
from fastlift_kernels.adapter.arguments import padded
from fastlift_kernels.cosine_ce import rows
from fastlift_kernels.mlp import gpu as mlp
from fastlift_kernels.quantise import gpu as quantise
from fastlift_kernels.triton_launch import next_power_of_two

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
FIRST_WITH_FP8 = 89
# Bytes of dynamic shared memory a block may use (CUDA programming guide, table of compute capabilities).
SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
MUCH_SHARED_MEMORY, LITTLE_SHARED_MEMORY = (80, 90, 100), (86, 89, 120)  # 160 KB and more, 99 KB
RANKS = (4, 32, 33, 64, 65, 128)  # up to MOST_FUSED_RANK; 33 and 65: not a multiple of 16, so with unaligned rows
SINGLE_RANKS = (32, 128)  # of float32 tokens
QUICK_RANKS = (4, 32)
WIDTH = 768
NORM_WIDTHS = (WIDTH, 1024, 4096)
ANY_SIZE = "i32"  # a number that kernels are not compiled for: tokens, and where a chunk starts
TABLE_HEAD = (
    "| kernel | warps/stages | sm | registers | spilled bytes | shared bytes | limit | matrix instructions | fingerprint |",
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
    architectures: tuple[int, ...] = ARCHITECTURES  # that have this configuration


def _blocks(configuration: dict[str, int]) -> tuple[dict[str, Any], int, int]:
    blocks = dict(configuration)
    warps, stages = blocks.pop("num_warps", 4), blocks.pop("num_stages", 3)
    return blocks, warps, stages


def _pointers(names: str, kind: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), f"*{kind}")


def _case(name: str, kernel: Any, arguments: dict[str, Any], configuration: dict[str, int], **constants: Any) -> Case:
    blocks, warps, stages = _blocks(configuration)
    return Case(name, kernel, arguments, {**constants, **blocks}, warps, stages)


def adapter_cases(
    dtype: torch.dtype, products: torch.dtype, precision: str, rank: int, width: int = WIDTH
) -> Iterator[Case]:
    """The fused kernels of the adapter with products: with LN_2, a learned scale, float32 parameters and all gradients."""
    kind, operand = NAMES[dtype], NAMES[products]
    precise = precision if products == torch.float32 else operand
    label = f"{kind}{'' if precise == kind else '/' + precise} rank {rank}{'' if width == WIDTH else f' width {width}'}"
    constants = {"D": width, "r": rank, "PRECISION": precision}
    yield _case(
        f"adapter forward {label}", fused_forward.adapter_forward_kernel,
        {
            "t": f"*{kind}", **_pointers("ln2_weight ln2_bias", "fp32"), "weights": f"*{operand}",
            "sums": "*fp32", **_pointers("ln2 residual", kind), "statistics": "*fp32",
            "hidden_out": f"*{operand}", "N": ANY_SIZE, "eps": "fp32", "ln_eps": "fp32",
        },
        fused_forward.configuration(rank, dtype, products), **constants,
    )  # fmt: skip
    yield _case(
        f"adapter tokens backward {label}", fused_backward.adapter_tokens_backward_kernel,
        {
            **_pointers("t d_ln2 d_residual", kind), "statistics": "*fp32", "hidden": f"*{operand}", "ln2_weight": "*fp32",
            "weights": f"*{operand}", "sums": "*fp32", "d_t": f"*{kind}", "d_pre": f"*{operand}", "N": ANY_SIZE,
            "eps": "fp32", "ln_eps": "fp32",
        },
        fused_backward.configuration(fused_backward.TOKENS, rank, dtype, products), **constants,
    )  # fmt: skip
    yield _case(
        f"adapter width backward {label}", fused_backward.adapter_width_backward_kernel,
        {
            **_pointers("t d_residual", kind), "statistics": "*fp32", **_pointers("hidden d_pre", operand), "sums": "*fp32",
            "N": ANY_SIZE, "span": ANY_SIZE, "ln_eps": "fp32",
        },
        fused_backward.configuration(fused_backward.WIDTH, rank, dtype, products), **constants,
    )  # fmt: skip


def adapter_parameter_cases(rank: int) -> Iterator[Case]:
    """The fused kernels of the adapter without products."""
    parameters = "ln_weight ln_bias down_weight down_bias up_weight up_bias scale"
    sizes = {"D": WIDTH, "r": rank}
    yield _case(
        f"adapter fold bf16 rank {rank}", folded.adapter_fold_kernel,
        {**_pointers(parameters, "fp32"), "weights": "*bf16", "sums": "*fp32", "fixed_scale": "fp32"},
        folded.BLOCKS, **sizes, R=padded(rank),
    )  # fmt: skip
    blocks, units = parameters_backward.BLOCKS, parameters_backward.UNITS_BLOCKS
    yield _case(
        f"adapter parameters backward rank {rank}", parameters_backward.adapter_parameters_backward_kernel,
        {
            **_pointers("sums ln_weight ln_bias down_weight up_weight up_bias scale", "fp32"),
            **_pointers("d_down_weight d_down_bias d_up_weight d_up_bias over_units", "fp32"),
            "S": ANY_SIZE, "fixed_scale": "fp32",
        },
        blocks, **sizes,
    )  # fmt: skip
    columns = -(-WIDTH // blocks["BD"])
    yield _case(
        f"adapter sums over units rank {rank}", parameters_backward.adapter_over_units_kernel,
        _pointers("over_units d_ln_weight d_ln_bias d_scale", "fp32"), units,
        D=WIDTH, U=-(-rank // blocks["BR"]), COLUMNS=columns, BC=next_power_of_two(columns),
    )  # fmt: skip


def adapter_norm_cases(dtype: torch.dtype, width: int) -> Iterator[Case]:
    """The kernels beside the library products of the adapter's larger ranks."""
    kind = NAMES[dtype]
    sizes = {"N": ANY_SIZE, "D": width}
    yield _case(
        f"adapter norms {kind} width {width}", wide.adapter_norms_kernel,
        {
            "t": f"*{kind}", **_pointers("ln2_weight ln2_bias ln_weight ln_bias up_bias scale", "fp32"),
            **_pointers("ln2 normed residual", kind), "statistics": "*fp32", **sizes, "fixed_scale": "fp32", "eps": "fp32",
            "ln_eps": "fp32",
        },
        wide.configuration(width),
    )  # fmt: skip
    yield _case(
        f"adapter norms backward {kind} width {width}", wide.adapter_norms_backward_kernel,
        {
            "t": f"*{kind}", "statistics": "*fp32", **_pointers("d_residual d_normed d_ln2", kind),
            **_pointers("ln_weight ln2_weight", "fp32"), **_pointers("normed d_t", kind), **sizes, "eps": "fp32",
            "ln_eps": "fp32",
        },
        wide.configuration(width),
    )  # fmt: skip


def attention_cases() -> Iterator[Case]:
    """Both directions of attention."""
    for call in CALLS:
        for name, kernel, blocks, architectures in kernels(call, ARCHITECTURES):
            case = _case(name, kernel, arguments(call), blocks, **constants(call))
            yield replace(case, architectures=architectures)


def small_cases() -> Iterator[Case]:
    """The kernels of the classifier and of the activations."""
    blocks = {"BD": 1024, "BLOCK": rows.BLOCK}
    yield _case(
        "classifier prepare weighted", rows.classifier_prepare_kernel,
        {
            "weight": "*fp32", "labels": "*i64", **_pointers("class_weight column_scale sums", "fp32"), "in_range": "*i1",
            "B": ANY_SIZE, "D": WIDTH, "C": 8142, "scale": "fp32", "ignored": -100,
        },
        {"BC": rows.CLASSES_A_PROGRAM, **blocks, "num_warps": 4},
    )  # fmt: skip
    for kind, smooth in (("bf16", False), ("bf16", True), ("fp32", False)):
        weighted = "*fp32" if smooth else None
        yield _case(
            f"classifier rows {kind}{' smoothed' if smooth else ''}", rows.classifier_rows_kernel,
            {
                "logits": "*fp32", **_pointers("gradient features", kind), "d_logits": weighted, "labels": "*i64",
                "column_scale": "*fp32", "bias": weighted, "log_prior": "*fp32", "class_weight": weighted,
                **_pointers("sums losses", "fp32"), "predictions": "*i64", "first": ANY_SIZE, "stride": 8192, "D": WIDTH,
                "C": 8142, "tau": "fp32", "smoothing": "fp32",
            },
            {**blocks, "num_warps": rows.WARPS}, SMOOTH=smooth,
        )  # fmt: skip
    yield _case(
        "classifier finish bf16", rows.classifier_finish_kernel, {"d_x": "*fp32", "x": "*bf16", "D": WIDTH},
        {"BD": 1024, "num_warps": 4},
    )  # fmt: skip
    for quick, name in ((True, "QuickGELU"), (False, "GELU")):
        for direction, kernel, pointers in (
            ("forward", activation.activation_forward_kernel, "x y"),
            ("backward", activation.activation_backward_kernel, "d_y x d_x"),
        ):
            yield _case(
                f"{name} {direction} bf16", kernel, {**_pointers(pointers, "bf16"), "count": 9_682_944},
                {"BLOCK": activation.BLOCK}, QUICK=quick,
            )  # fmt: skip


def quantise_cases() -> Iterator[Case]:
    """The kernels of fp8."""
    eight = {"rounded": "*fp8e4nv", "scales": "*fp32"}
    for width in (WIDTH, 4 * WIDTH):
        configuration, sizes = quantise.configuration(width), {"D": width}
        yield _case(
            f"quantise rows bf16 width {width}", quantise.quantise_rows_kernel, {"x": "*bf16", **eight, **sizes},
            configuration,
        )  # fmt: skip
        if width == WIDTH:
            statistics, weights = _pointers("means rstds", "fp32"), _pointers("weight bias", "bf16")
            yield _case(
                f"quantise layer norm bf16 width {width}", quantise.quantise_layer_norm_kernel,
                {"x": "*bf16", **weights, **eight, **statistics, **sizes, "eps": "fp32"}, configuration,
            )  # fmt: skip
            yield _case(
                f"quantise layer norm backward bf16 width {width}", quantise.quantise_layer_norm_backward_kernel,
                {**_pointers("d_normed x weight d_x", "bf16"), **statistics, **sizes}, configuration,
            )  # fmt: skip
            continue
        for quick, name in ((True, "QuickGELU"), (False, "GELU")):
            for direction, kernel, pointers in (
                ("", quantise.quantise_activation_kernel, "pre"),
                (" backward", quantise.quantise_activation_backward_kernel, "d_y pre"),
            ):
                yield _case(
                    f"quantise {name}{direction} bf16 width {width}", kernel,
                    {**_pointers(pointers, "bf16"), **eight, **sizes}, configuration, QUICK=quick,
                )  # fmt: skip


def mlp_cases(dtype: torch.dtype, quick_gelu: bool, small: bool) -> Iterator[Case]:
    """Own products of the frozen MLP with everything that their epilogues can hold; ``small``: where shared memory is little."""
    kind, hidden = NAMES[dtype], 4 * WIDTH
    blocks, architectures = (mlp.SMALL, LITTLE_SHARED_MEMORY) if small else (mlp.LARGE, MUCH_SHARED_MEMORY)
    label, into = f"{'QuickGELU' if quick_gelu else 'GELU'} {kind}", {"K": WIDTH, "WIDTH": hidden, "QUICK": quick_gelu}
    found = [
        _case(
            f"mlp in {label}", mlp.mlp_in_kernel, {**_pointers("x weight bias pre hidden", kind), "N": ANY_SIZE},
            blocks, **into,
        ),
        _case(
            f"mlp gradient {label}", mlp.mlp_gradient_kernel,
            {**_pointers("d_y weight pre d_pre", kind), "N": ANY_SIZE}, blocks, **into,
        ),
    ]  # fmt: skip
    if quick_gelu:
        found.append(
            _case(
                f"mlp out {kind}", mlp.mlp_out_kernel,
                {**_pointers("hidden weight bias scale residual y", kind), "N": ANY_SIZE}, blocks, K=hidden, WIDTH=WIDTH,
            )
        )  # fmt: skip
    for case in found:
        yield replace(case, architectures=architectures)


def all_mlp_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Those of a dtype on all architectures."""
    for quick_gelu in (True, False):
        for small in (False, True):
            yield from mlp_cases(dtype, quick_gelu, small)


def cases(quick: bool = False) -> list[Case]:
    """All shipped configurations; with ``quick`` the usual ones in bf16."""
    half, single = torch.bfloat16, torch.float32
    if quick:
        found = [case for rank in QUICK_RANKS for case in adapter_cases(half, half, "ieee", rank)]
        return [
            *found,
            *adapter_parameter_cases(32),
            *adapter_norm_cases(half, WIDTH),
            *small_cases(),
            *quantise_cases(),
            *all_mlp_cases(half),
        ]
    kinds = ((half, half, "ieee"), (single, single, "tf32"), (single, single, "ieee"), (single, half, "ieee"))
    found = [
        case
        for kind in kinds
        for rank in (RANKS if kind[0] == half else SINGLE_RANKS)
        for case in adapter_cases(*kind, rank)
    ]
    found += adapter_cases(torch.float16, torch.float16, "ieee", 32)  # the instruction shapes of bf16
    found += [case for rank in (4, 32, 128) for case in adapter_parameter_cases(rank)]
    found += [case for dtype in (half, single) for width in NORM_WIDTHS for case in adapter_norm_cases(dtype, width)]
    return [*found, *attention_cases(), *small_cases(), *quantise_cases(), *all_mlp_cases(half)]


def architectures_of(case: Case) -> list[int]:
    """Those that can run it."""
    least = FIRST_WITH_FP8 if any("fp8" in str(kind) for kind in case.arguments.values()) else 0
    return [architecture for architecture in case.architectures if architecture >= least]


def row_of(case: Case, architecture: int) -> str:
    """Compile one case and write its line of the table; a line over a limit ends with **over**."""
    got, limit = compile_case(case, architecture), SHARED_LIMIT[architecture]
    over = " **over**" if got.spilled > 0 or got.shared > limit else ""
    return (
        f"| {case.name} | {case.num_warps}/{case.num_stages} | {architecture} | {got.registers} | {got.spilled} | "
        f"{got.shared} | {limit} | {got.matrix} | {fingerprint(case)} |{over}"
    )


def header() -> str:
    """The first line of a table."""
    return f"Triton {triton.__version__}, torch {torch.__version__}; compiled without a GPU."


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
    lines = [header(), "", *TABLE_HEAD]
    print("\n".join(lines))
    known = known_rows(arguments.output, header()) if arguments.output else {}
    for case in cases(arguments.quick):
        if arguments.match not in case.name:
            continue
        for architecture in [one for one in architectures_of(case) if one in arguments.arch]:
            lines.append(known.get((case.name, architecture, fingerprint(case))) or row_of(case, architecture))
            print(lines[-1], flush=True)
    failed = sum(line.endswith("**over**") for line in lines)
    lines += ["", f"{failed} over a limit."]
    print(lines[-1])
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
