"""Bytes each op must move to and from main memory, counted tensor by tensor, for the fused ops and for eager PyTorch.

    python benchmarks/ops/traffic.py

A tensor counts once for each kernel that reads or writes it; a second read by the same program of a block it has just
read comes from the caches and is not counted. Weights are read once a call and shared by all tokens.
"""

import argparse
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Traffic:
    """Bytes a token, and bytes a call that do not grow with the tokens (weights, partial sums)."""

    token: float
    call: float

    def per_token(self, tokens: int) -> float:
        """All bytes of a call of ``tokens``, a token."""
        return self.token + self.call / tokens


def adapter_forward(width: int, rank: int, size: int, parameter: int = 4, hidden: int | None = None) -> Traffic:
    """Reads t; writes ln2, residual, hidden, mean and variance. ``size`` bytes an activation element."""
    hidden = size if hidden is None else hidden
    return Traffic(3 * width * size + rank * hidden + 8, (2 * width * rank + 5 * width + rank + 1) * parameter)


def adapter_folding(width: int, rank: int, size: int, parameter: int = 4) -> float:
    """Bytes a call of what the fused kernels' folding writes, and of what each direction reads of it."""
    padded = max(16, 1 << (rank - 1).bit_length())
    return 2 * width * padded * size + (2 * padded + width) * parameter


def adapter_backward_fused(width: int, rank: int, size: int, splits: int, parameter: int = 4) -> Traffic:
    """Tokens kernel: t, d_ln2, d_residual, hidden in, d_t, d_pre out. Width kernel: t, d_residual, hidden, d_pre in.

    Partial sums are written by split, and read where the parameters' gradients are made.
    """
    tokens_kernel = 4 * width * size + 2 * rank * size + 8
    width_kernel = 2 * width * size + 2 * rank * size + 8
    partial = (2 * rank * width + width + rank) * 4
    weights = 2 * width * rank * parameter
    gradients = (2 * width * rank + 3 * width + rank) * 4
    over_units = -(-rank // 8) * 2 * width * 4  # of d_gamma and d_beta, written and read
    call = 2 * splits * partial + weights + adapter_folding(width, rank, size) + gradients + 2 * over_units
    return Traffic(tokens_kernel + width_kernel, call)


def adapter_by_products(width: int, rank: int, size: int) -> tuple[Traffic, Traffic]:
    """Above rank 128 on a GPU: passes over the tokens for both norms, and library products."""
    wide, narrow, weights = width * size, rank * size, 2 * width * rank
    forward = (
        4 * wide + 8  # norms: t in; ln2, LN_a's output and t + s b_up out
        + (wide + narrow) + (narrow + 2 * wide)  # hidden; added to the residual
    )  # fmt: skip
    backward = (
        (wide + narrow) + 3 * narrow + (narrow + wide)  # d_hidden; relu; d_normed
        + 6 * wide + 8  # norms: t, d_residual, d_normed, d_ln2 in; x, d_t out
        + 2 * (narrow + wide) + narrow + wide  # both weights' gradients; the sums of d_pre and d_residual
    )  # fmt: skip
    return Traffic(forward, weights * (4 + 2 * size)), Traffic(backward, weights * (8 + 4 * size) + 3 * weights * 4)


def adapter_on_a_gpu(width: int, rank: int, size: int, tokens: int, multiprocessors: int) -> tuple[Traffic, Traffic]:
    """(forward, backward) of the way that is taken for this rank."""
    from fastlift_kernels.adapter import fused_backward as fused
    from fastlift_kernels.adapter.arguments import MOST_FUSED_RANK

    if rank > MOST_FUSED_RANK:
        return adapter_by_products(width, rank, size)
    blocks = fused.configuration(fused.WIDTH, rank, torch.bfloat16, torch.bfloat16)
    splits, _ = fused.splits_of(tokens, -(-width // blocks["BD"]), multiprocessors)
    forward = adapter_forward(width, rank, size)
    folding = adapter_folding(width, rank, size)
    return Traffic(forward.token, forward.call + 2 * folding), adapter_backward_fused(width, rank, size, splits)


def adapter_from_caches(width: int, rank: int, size: int) -> tuple[float, float]:
    """(forward, backward) bytes a token that the fused kernels read from L2 beside main memory; none of it from L1.

    Weights by every program, rows a second time by the same program, and what is kept of the bottleneck by every block of
    columns.
    """
    from fastlift_kernels.adapter import fused_backward as fused
    from fastlift_kernels.adapter import fused_forward

    half = torch.bfloat16
    forward = fused_forward.configuration(rank, half, half)
    tokens, columns = (fused.configuration(kernel, rank, half, half) for kernel in (fused.TOKENS, fused.WIDTH))
    weights = 2 * width * forward["BR"] * size
    again = (-(-width // columns["BD"]) - 1) * (2 * rank * size + 8)
    return weights / forward["BN"] + width * size, weights / tokens["BN"] + 3 * width * size + again


def adapter_backward_native(width: int, rank: int, size: int) -> Traffic:
    """One pass: t, d_ln2, d_residual, hidden, statistics in, d_t out."""
    return Traffic(4 * width * size + rank * 4 + 8, (4 * width * rank + 8 * width) * 4)


def adapter_eager(width: int, rank: int, size: int) -> tuple[Traffic, Traffic]:
    """Eager PyTorch, op by op: two LayerNorms, two linears, relu, scale, add; and their backward with accumulation."""
    wide, narrow = width * size, rank * size
    forward = (
        2 * (2 * wide + 8)  # two LayerNorms: read t, write
        + (wide + narrow) + 2 * narrow + (narrow + wide)  # linear, relu, linear
        + 2 * wide + 3 * wide  # scale * branch; t + that
    )  # fmt: skip
    backward = (
        2 * wide + 2 * wide  # scale * d: d_branch, and d_scale's product read again
        + wide  # its sum
        + (wide + narrow) + (wide + narrow) + wide  # linear: d_hidden; d_W_up; d_b_up
        + 3 * narrow + (narrow + wide) + (narrow + wide) + narrow  # relu; linear: d_normed; d_W_down; d_b_down
        + 2 * (3 * wide + 8 + 2 * wide)  # two LayerNorms: d_t, then weight and bias
        + 2 * 3 * wide  # two additions of gradients of t
    )  # fmt: skip
    return Traffic(forward, 0), Traffic(backward, 0)


def attention(width: int, heads: int, size: int) -> tuple[Traffic, Traffic]:
    """(forward, backward) a token of own kernels.

    Forward reads q, k and v, and writes out and the logarithms of the sums; backward reads them, but for out, and its gradient.
    """
    wide, sums = width * size, 4 * heads
    return Traffic(4 * wide + sums, 0), Traffic(7 * wide + sums, 0)


def attention_by_the_library(width: int, heads: int, size: int) -> tuple[Traffic, Traffic]:
    """FlashAttention 2, as benchmarks/counting.py counts it: dq is added to in fp32; then one gradient is made of three."""
    wide, sums = width * size, 4 * heads
    return Traffic(4 * wide + sums, 0), Traffic(17 * wide + 6 * wide + 4 * sums, 0)


def activation(size: int) -> tuple[Traffic, Traffic]:
    """An element: x in, y out; x and d_y in, d_x out."""
    return Traffic(2 * size, 0), Traffic(3 * size, 0)


def mlp_product(product: str, width: int, hidden: int, size: int) -> float:
    """Bytes a token of one product of the frozen MLP with its epilogue: "in", "in, nothing kept", "out" or "gradient"."""
    narrow, wide = width * size, hidden * size
    return {
        "in": narrow + 2 * wide,  # x in, pre-activation and activation out
        "in, nothing kept": narrow + wide,
        "out": wide + 2 * narrow,  # hidden and residual in, y out
        "gradient": narrow + 2 * wide,  # d_y and pre-activation in, d_pre out
    }[product]


def mlp(width: int, hidden: int, size: int, kept: bool = True) -> tuple[float, float]:
    """(forward, backward) bytes a token of the frozen MLP with own products; ``kept``: the pre-activation, for backward."""
    forward = mlp_product("in" if kept else "in, nothing kept", width, hidden, size)
    forward += mlp_product("out", width, hidden, size)
    return forward, mlp_product("gradient", width, hidden, size) + (hidden + width) * size


def mlp_eager(width: int, hidden: int, size: int) -> tuple[float, float]:
    """The same by library products: activation, addition and derivative are passes of their own."""
    narrow, wide = width * size, hidden * size
    forward = (narrow + wide) + 2 * wide + (wide + narrow) + 3 * narrow
    return forward, (narrow + wide) + 3 * wide + (wide + narrow)


def classifier(
    batch: int, width: int, classes: int, size: int, parameter: int = 4
) -> dict[str, tuple[Traffic, Traffic]]:
    """(forward, backward) a sample, by path; cosine classifier with prior, both gradients. Weights are in ``call``."""
    weights, features, logits = classes * width * parameter, width * size, classes * size
    eager = (
        Traffic(3 * features + 2 * 4 + logits * 3 + classes * 4 * (2 + 2 + 1), 4 * weights),
        Traffic(classes * 4 * (3 + 2) + logits * (2 + 2 + 1 + 1) + 8 * features, 7 * weights),
    )
    # On a GPU: products written in float32 and read twice by the row kernel, which writes what is multiplied twice more.
    triton = (
        Traffic(
            5 * features + 3 * width * 4 + classes * (3 * 4 + 3 * size),
            (4 if size == parameter else 6) * weights + 3 * classes * width * 4,
        ),
        Traffic(2 * width * 4, 2 * classes * width * 4),
    )
    # The native path takes its gradients forward: blocks of logits (written, read and written, read twice), then scales.
    native = (
        Traffic(6 * width * 4 + classes * 4 * 5, 5 * weights + -(-batch * classes // 2**21) * 2 * weights),
        Traffic(2 * width * 4, 2 * weights),
    )
    return {"eager PyTorch (by op)": eager, "GPU": triton, "native": native}


def _print_classifier(batch: int, width: int, classes: int, size: int) -> None:
    print(f"\nclassifier with its loss, {batch} x {width} x {classes}, {size} bytes a feature\n")
    print("| | forward, MB a call | backward, MB a call |")
    print("|---|---|---|")
    for name, directions in classifier(batch, width, classes, size).items():
        print(f"| {name} | " + " | ".join(f"{(x.token * batch + x.call) / 1e6:,.1f}" for x in directions) + " |")
    fused, eager = activation(size), (Traffic(6 * size, 0), Traffic(17 * size, 0))
    print(f"\nQuickGELU, {size} bytes an element: bytes an element forward, backward\n")
    print(f"fused {fused[0].token}, {fused[1].token}; eager (by op) {eager[0].token}, {eager[1].token}")


def main() -> None:
    """Print the tables for a width, rank, element size and number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--bytes", type=int, default=2, help="of an activation element")
    parser.add_argument("--tokens", type=int, default=128 * 197, help="of a call, which share the weights")
    parser.add_argument("--multiprocessors", type=int, default=132, help="of the GPU; an H100 has 132")
    a = parser.parse_args()
    eager = adapter_eager(a.width, a.rank, a.bytes)
    rows = [
        ("eager PyTorch (by op)", *eager),
        ("GPU", *adapter_on_a_gpu(a.width, a.rank, a.bytes, a.tokens, a.multiprocessors)),
        (
            "native",
            adapter_forward(a.width, a.rank, a.bytes, hidden=4),
            adapter_backward_native(a.width, a.rank, a.bytes),
        ),
    ]
    print(f"adapter, width {a.width}, rank {a.rank}, {a.bytes} bytes an element, {a.tokens} tokens\n")
    print("| | forward, bytes a token | with weights | backward, bytes a token | with weights and partial sums |")
    print("|---|---|---|---|---|")
    for name, forward, backward in rows:
        numbers = (forward.token, forward.per_token(a.tokens), backward.token, backward.per_token(a.tokens))
        print(f"| {name} | " + " | ".join(f"{x:,.0f}" for x in numbers) + " |")
    print(f"\nattention, width {a.width}, 12 heads, {a.bytes} bytes an element: bytes a token forward, backward\n")
    for name, count in (("own kernels", attention), ("the library's flash backend", attention_by_the_library)):
        print(f"{name} " + ", ".join(f"{x.token:,.0f}" for x in count(a.width, 12, a.bytes)))
    print(f"\nfrozen MLP, {4 * a.width} hidden, {a.bytes} bytes an element: bytes a token forward, backward\n")
    for name, count in (("own products", mlp), ("library products", mlp_eager)):
        print(f"{name} " + ", ".join(f"{x:,.0f}" for x in count(a.width, 4 * a.width, a.bytes)))
    _print_classifier(128, a.width, 8142, a.bytes)


if __name__ == "__main__":
    main()
