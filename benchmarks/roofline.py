"""A roofline on paper: FLOP and bytes of every part of LIFT's step, and the least time on four GPUs.

``python -m benchmarks.roofline`` writes ``docs/roofline.md``. Everything in it is computed, nothing measured: no GPU was
available. Each part takes at least the larger of FLOP / peak rate and bytes / peak bandwidth; parts are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "roofline.md"


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a data sheet: dense bf16 TFLOP/s, memory bandwidth in TB/s."""

    name: str
    tflops: float
    tb_per_s: float


GPUS = (Gpu("A100 80GB SXM", 312, 2.04), Gpu("H100 SXM", 989, 3.35), Gpu("H200", 989, 4.8), Gpu("B200", 2250, 8.0))


@dataclass(frozen=True)
class Shape:
    """A ViT-B/16 with an adapter of rank r; L tokens, D width, M MLP width; b bytes a number (bf16)."""

    tokens: int = 197
    width: int = 768
    mlp: int = 3072
    heads: int = 12
    depth: int = 12
    rank: int = 32
    bytes: int = 2


@dataclass(frozen=True)
class Part:
    """One kernel or product: FLOP and bytes of an image, over all blocks that run it."""

    name: str
    flop: float
    bytes: float

    def us(self, gpu: Gpu) -> float:
        """Least time of an image in microseconds."""
        return max(self.flop / (gpu.tflops * 1e12), self.bytes / (gpu.tb_per_s * 1e12)) * 1e6


def parts(s: Shape, batch: int) -> list[Part]:
    """All parts of forward and backward. The last block's second half runs for one token and is left out with its
    product's backward; the first block's backward ends at its adapter. Weights are read once a batch."""
    full = s.depth - 1  # blocks whose second half runs for all tokens
    below = s.depth - 1  # blocks with gradients through attention
    token = s.tokens * s.width * s.bytes  # one [L, D]
    weight = s.width * s.width * s.bytes / batch
    flop = 2 * s.tokens * s.width * s.width  # one [L, D] x [D, D]
    ratio = s.mlp / s.width
    attention = 2 * 2 * s.tokens * s.tokens * s.width
    adapter = 2 * 2 * s.tokens * s.width * s.rank
    read_write = 2 * token
    forward = [
        Part("patches", flop, 3 * s.tokens * 256 * s.bytes + token + weight),
        Part("LN_1", 0, s.depth * read_write),
        Part("qkv", s.depth * 3 * flop, s.depth * (4 * token + 3 * weight)),
        Part("attention", s.depth * attention, s.depth * 4 * token),
        Part("attention output + residual", full * flop, full * (3 * token + weight)),
        Part("adapter op (LN_2, LN_a, branch, residual)", full * adapter, full * 4680 / 1536 * token),
        Part("MLP in", full * ratio * flop, full * ((1 + ratio) * token + ratio * weight)),
        Part("QuickGELU", 0, full * 2 * ratio * token),
        Part("MLP out + residual", full * ratio * flop, full * ((2 + ratio) * token + ratio * weight)),
    ]
    backward = [
        Part("MLP out, dx", (full - 1) * ratio * flop, (full - 1) * ((1 + ratio) * token + ratio * weight)),
        Part("QuickGELU, dx", 0, (full - 1) * 3 * ratio * token),
        Part("MLP in, dx", (full - 1) * ratio * flop, (full - 1) * ((1 + ratio) * token + ratio * weight)),
        Part("adapter op, dx and weights", full * 2.5 * adapter, full * 9830 / 1536 * token),
        Part("attention output, dx", below * flop, below * (2 * token + weight)),
        Part("attention, dx", below * 2.5 * attention, below * 8 * token),
        Part("qkv, dx", below * 3 * flop, below * (4 * token + 3 * weight)),
        Part("LN_1, dx + residual", 0, below * 4 * token),
    ]
    return [*forward, *(Part(f"backward: {part.name}", part.flop, part.bytes) for part in backward)]


def table(batch: int = 128) -> str:
    """The document."""
    found = parts(Shape(), batch)
    head = f"| part | GFLOP/image | MB/image | {' | '.join(f'{gpu.name} (us)' for gpu in GPUS)} |"
    lines = [head, "|---|---|---|" + "---|" * len(GPUS)]
    for part in found:
        times = " | ".join(f"{part.us(gpu):.1f}" for gpu in GPUS)
        lines.append(f"| {part.name} | {part.flop / 1e9:.2f} | {part.bytes / 1e6:.1f} | {times} |")
    total = Part("all", sum(part.flop for part in found), sum(part.bytes for part in found))
    least = [sum(part.us(gpu) for part in found) for gpu in GPUS]
    lines.append(
        f"| **all** | **{total.flop / 1e9:.1f}** | **{total.bytes / 1e6:.0f}** | "
        + " | ".join(f"**{us:.0f}**" for us in least)
        + " |"
    )
    lines.append("| images/s at most | | | " + " | ".join(f"{1e6 / us:,.0f}" for us in least) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the document."""
    DOCUMENT.write_text(
        "# A roofline on paper\n\n"
        "**Computed, not measured**: no GPU was available. ViT-B/16 at 224 pixels, rank 32, bf16, batch 128; peak rates are "
        "those of the makers' data sheets (dense bf16, memory bandwidth), which no kernel reaches. A part takes at least the "
        "larger of its FLOP over the peak rate and its bytes over the bandwidth; the sum is a lower bound of the step, the "
        "last line an upper bound of the rate. Bytes of the adapter op are those of `kernels/adapter/README.md`; where nothing "
        "is fused, a part reads its inputs and writes its outputs once. (PyTorch's counter leaves attention out on CPUs and so "
        "counts 4.7 GFLOP less.) The optimiser, the classifier's op and data loading "
        "are not in it.\n\n"
        f"{table()}\n\n"
        "The large products are bound by arithmetic, everything else by memory: norms, activation, adapter and residual "
        "additions move more than half of the bytes. Written by `python -m benchmarks.roofline`.\n",
        encoding="utf-8",
    )
    print(table())


if __name__ == "__main__":
    main()
