"""Where a training step's time goes, predicted from rates that were measured on a card, beside what was measured.

``python -m benchmarks.roofline`` writes ``docs/roofline.md``. What a step does is counted in ``counting.py``; each kind of
kernel takes the longest of its FLOP, its bytes of memory and its bytes of L2 over the card's rates, and the kinds are added up.
Measurements are read from ``benchmarks/results/gpu_step*.json``, which ``python -m benchmarks.gpu`` makes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from benchmarks.counting import Part, Shape, evaluation_parts, parts, passes_bytes, step_flop
from benchmarks.documents import RESULTS, ROOT, table
from fastlift.models.fused import Fused

DOCUMENT = ROOT / "docs" / "roofline.md"
MEASUREMENTS = "gpu_step*.json"
BATCH, RANKS = 512, (32, 256)
Row = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """Rates that were measured on a card with PyTorch, and the one of L2 that was not.

    Attributes:
        tflops: of bf16 products of the ViT's shapes, in TFLOP/s.
        tb_per_s: of a copy, bytes read and written, in TB/s.
        cached_tb_per_s: of reads from L2, in TB/s: an assumption.
    """

    name: str
    tflops: float
    tb_per_s: float
    cached_tb_per_s: float = 5.5

    def ms(self, part: Part, images: int) -> float:
        """Predicted milliseconds of a part."""
        seconds = max(
            part.flop / self.tflops, part.bytes / self.tb_per_s, (part.bytes + part.cached) / self.cached_tb_per_s
        ) / 1e12  # fmt: skip
        return 1e3 * seconds * images


# What PyTorch reached on an H100, and an H200's copy: no run of fastlift's. A square product of 8192 reached 798 TFLOP/s on
# the H100. The H200 has its chip, so its rate of products is taken over; that is an assumption.
CARDS = (Card("H100", 680, 3.0), Card("H200", 680, 4.3))

# The same step as it was estimated by hand before (ms on an H100): group, milliseconds, and what is known of the difference.
# {n(T)} stands for the milliseconds of n blocks that each move T times the tokens of a batch.
BY_HAND: tuple[tuple[str, float, str], ...] = (
    (
        "products",
        47.6,
        "by hand 60.4 GFLOP including the adapter, {products} ms at this rate; here {gflop} GFLOP without the adapter",
    ),
    (
        "attention",
        2.9,
        "here only the bytes of 11 blocks and of the last block's keys and values; 12 whole blocks take {12(4)}",
    ),
    (
        "attention, backward",
        9.9,
        "here 10 blocks and part of the last, because the first gets no gradient; 11 blocks take {11(17)}",
    ),
    ("QuickGELU", 4.9, "here 11 blocks, because the MLP of the last has one token; 12 blocks take {12(8)}"),
    (
        "QuickGELU, backward",
        6.6,
        "here 10 blocks, because the MLP of the first gets no gradient; 11 blocks take {11(12)}",
    ),
    ("adapter", 9.0, "by hand 8 to 10, assuming that tiles of 16 tokens do not reach the copy's rate; here they do"),
    ("joining dq, dk, dv", 3.7, "here 10 blocks and two thirds of another; 12 blocks take {12(6)}"),
    ("additions, LN_1", 8.7, ""),
    ("classifier, loss, optimiser", 0.6, "small kernels limited by their launches, which are not counted here"),
)


def predicted_ms(card: Card, shape: Shape, batch: int) -> float:
    """A step of eager code in bf16 without activation checkpointing."""
    return sum(card.ms(part, batch) for part in parts(shape, batch))


def parts_table(shape: Shape, batch: int) -> str:
    """Every kind of kernel: what it needs an image, and its time on each card."""
    found = parts(shape, batch)
    head = ["kernels", "GFLOP/image", "MB/image", "MB/image from L2", *(f"{card.name} (ms)" for card in CARDS)]
    rows = [
        [part.name, f"{part.flop / 1e9:.2f}", f"{part.bytes / 1e6:.1f}", f"{part.cached / 1e6:.1f}"]
        + [f"{card.ms(part, batch):.2f}" for card in CARDS]
        for part in found
    ]
    totals = [sum(part.flop for part in found) / 1e9, sum(part.bytes for part in found) / 1e6]
    whole = [predicted_ms(card, shape, batch) for card in CARDS]
    cells = [f"{totals[0]:.1f}", f"{totals[1]:.0f}", "", *(f"{ms:.1f}" for ms in whole)]
    rows.append([f"**{cell}**" if cell else "" for cell in ["all", *cells]])
    rows.append(["images/s", "", "", "", *(f"{1e3 * batch / ms:,.0f}" for ms in whole)])
    return table(head, rows)


def fused_table(shape: Shape, batch: int) -> str:
    """What the kernels that ``--fused`` names would change, each alone and all together."""
    names: tuple[Fused, ...] = get_args(Fused)
    choices = [(), *combinations(names, 1), names] if len(names) > 1 else [(), names]
    head = ["`--fused`", "passes and attention, MB/image", "all, MB/image"]
    head += [f"{card.name} ({unit})" for card in CARDS for unit in ("ms", "images/s")]
    rows = []
    for choice in choices:
        chosen = replace(shape, fused=choice)
        whole = sum(part.bytes for part in parts(chosen, batch))
        row = [" ".join(choice) or "none", f"{passes_bytes(chosen, batch) / 1e6:.0f}", f"{whole / 1e6:.0f}"]
        for ms in (predicted_ms(card, chosen, batch) for card in CARDS):
            row += [f"{ms:.1f}", f"{1e3 * batch / ms:,.0f}"]
        rows.append(row)
    return table(head, rows)


def evaluation_table(shape: Shape, batch: int) -> str:
    """Evaluation beside the counted step with the same kernels, and beside the step of eager code."""
    rows = []
    for choice in ((), get_args(Fused)):
        chosen = replace(shape, fused=choice)
        for card in CARDS:
            ms = sum(card.ms(part, batch) for part in evaluation_parts(chosen, batch))
            trained = predicted_ms(card, chosen, batch), predicted_ms(card, shape, batch)
            times = (f"{one / ms:.2f}" for one in trained)
            rows.append([" ".join(choice) or "none", card.name, f"{ms:.1f}", f"{1e3 * batch / ms:,.0f}", *times])
    head = ["`--fused`", "card", "ms", "images/s", "times the same training", "times training without `--fused`"]
    return table(head, rows)


def groups_table(shape: Shape, batch: int) -> str:
    """The lines of a profile, beside the estimate by hand."""
    found, card = parts(shape, batch), CARDS[0]
    token = Part("", "", 0, shape.tokens * shape.width * shape.bytes)
    gflop = sum(part.flop for part in found if part.group == "products") / 1e9
    known = {"products": f"{60.4 * batch / card.tflops:.1f}", "gflop": f"{gflop:.1f}"}
    known |= {
        f"{n}({t})": f"{n * t * card.ms(token, batch):.1f}" for n, t in ((12, 4), (11, 17), (12, 8), (11, 12), (12, 6))
    }
    rows = []
    for group, by_hand, why in BY_HAND:
        ms = sum(card.ms(part, batch) for part in found if part.group == group)
        rows.append([group, f"{ms:.1f}", f"{by_hand:.1f}", why.format_map(known)])
    both = (predicted_ms(card, shape, batch), sum(by_hand for _, by_hand, _ in BY_HAND))
    rows.append(["**all**", *(f"**{ms:.1f}**" for ms in both), ""])
    return table(["", f"counted, {card.name} (ms)", "by hand (ms)", "known reasons for the difference"], rows)


def measured_table(results: Path) -> str:
    """Predictions, from the rates of each run, beside the steps that it measured; a sentence where there is none."""
    rows = []
    for file in sorted(results.glob(MEASUREMENTS)):
        found = json.loads(file.read_text(encoding="utf-8"))
        rows += [_beside(found, row) for row in _steps(found)]
    if not rows:
        return "**Nothing was measured**: no step of fastlift has run on a GPU yet."
    head = [
        "card",
        "step",
        "predicted (ms)",
        "measured (ms)",
        "measured / predicted",
        "images/s",
        "share of the matrix rate",
    ]
    return table(head, rows)


def _steps(found: Row) -> list[Row]:
    """The first timing of every way to take a step; a rehearsal's times are none."""
    steps: dict[str, Row] = {}
    for row in () if found["is_rehearsal"] else found["rows"]:
        if row["part"] == "step" and "ms" in row:
            steps.setdefault(row["name"], row)
    return list(steps.values())


def _beside(found: Row, row: Row) -> list[str]:
    rates = found["rates"]
    card = Card(found["card"], rates["vit_tflops"], rates["copy_tb_per_s"])
    usual = {"mode": "eager", "frozen": "compute", "recompute": "none", "impl": None, "micro_batch": None, "fused": []}
    ratio = predicted = "–"  # the count is of the eager code
    if all(row[name] == value for name, value in usual.items()):
        ms = predicted_ms(card, replace(Shape(), rank=row["rank"]), row["batch"])
        predicted, ratio = f"{ms:.1f}", f"{row['ms'] / ms:.2f}"
    share = f"{100 * row['share_of_matrix']:.0f} %"
    return [card.name, row["name"], predicted, f"{row['ms']:.1f}", ratio, f"{row['images_per_s']:,.0f}", share]


def document(results: Path) -> str:
    """All of docs/roofline.md."""
    shape = Shape()
    high = replace(shape, rank=RANKS[1])
    wide = sum(CARDS[0].ms(part, BATCH) for part in parts(high, BATCH) if part.group == "adapter")
    flop = step_flop(shape) / sum(part.flop for part in evaluation_parts(shape, 1))
    cards = "; ".join(f"{card.name} {card.tflops:.0f} TFLOP/s, {card.tb_per_s:.1f} TB/s" for card in CARDS)
    return f"""# Where a step's time goes

The table counts one training step of LIFT on a ViT-B/16 at 224 pixels, kernel by kernel as the eager code launches it
(`benchmarks/counting.py`): bf16, batch {BATCH}, rank {RANKS[0]}, 1000 classes. The time of a kind of kernel is the longest of three times: its
FLOP, its bytes of memory and all bytes that pass L2, each divided by the rate of the card. The total is the sum over all kinds. The rates do
not come from data sheets: PyTorch reached them on such cards ({cards}; matrix products of
the ViT's shapes, and copies, bytes read plus bytes written). The H200's rate for products is assumed to equal the H100's, because the chip
is the same. The L2 rate, {CARDS[0].cached_tb_per_s} TB/s, is an assumption. Launches, gaps between kernels and the host are not counted.

## Measured

{measured_table(results)}

## Counted

{parts_table(shape, BATCH)}

At rank {RANKS[1]} the adapter uses the library's matrix products and takes {wide:.1f} ms on the {CARDS[0].name}, and the step {predicted_ms(CARDS[0], high, BATCH):.1f} ms.

## With kernels that are chosen by name

`--fused` names kernels that are not the default, because no GPU has timed them ([why](architecture.md#decisions)). They are counted in the
same way: without padding, launches and gaps, and with matrix products at the library's rate. What an epilogue reads or writes in place of
a pass counts as a pass.

{fused_table(shape, BATCH)}

## Evaluation

Computed in the same way, for batches of {BATCH} crops: no gradients, and nothing kept for them. Five crops of an image go through the model
in one batch and count as five images. Evaluation is to reach 2.6 times the images/s of training.

{evaluation_table(shape, BATCH)}

A training step takes {flop:.2f} times the FLOP of evaluation. The rest of the ratio comes from passes over memory that training makes and
evaluation does not. So the fewer passes the training makes, the smaller the ratio.

## Beside the estimate by hand

{groups_table(shape, BATCH)}

Arithmetic limits the large products, memory limits everything else.

Written by `python -m benchmarks.roofline`; measurements are read from `{MEASUREMENTS}` ([how to make them](../benchmarks/gpu/README.md)).
"""


def main() -> None:
    """Write the document."""
    text = document(RESULTS)
    DOCUMENT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
