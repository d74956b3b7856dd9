"""Rows and the end of a run as people read them."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.rows import Row


def line(row: Row) -> str:
    """A row in one line."""
    told = f"{row['part']:<12} {row['name']:<58} "
    return told + "  ".join([*_cells(row), *(f"{key}: {row[key]}" for key in ("skipped", "error") if key in row)])


def _cells(row: Row) -> list[str]:
    found = []
    if "outcome" in row:
        found.append(f"{row['outcome']} {row.get('seconds', 0):.2f} s")
    if "ms" in row:
        found.append(f"{row['ms']:9.3f} ms")
    if "quartiles_ms" in row:
        found.append("({:.3f} to {:.3f})".format(*row["quartiles_ms"]))
    if "host_ms" in row:
        found.append(f"host {row['host_ms']:.3f} ms")
    if "images_per_s" in row:
        found.append(f"{row['images_per_s']:,.0f} images/s")
    for key, of in (("share_of_matrix", "matrix rate"), ("share_of_copy", "copy rate"), ("share_of_step", "step")):
        if key in row:
            found.append(f"{100 * row[key]:.1f} % of the {of}")
    if "peak_gib" in row:
        found.append(f"peak {row['peak_gib']:.1f} GiB")
    if row.get("host_sync") == "none":
        found.append("no host sync")
    if "note" in row:
        found.append(row["note"])
    return found


def table(summary: dict[str, Any]) -> str:
    """What became of each part."""
    head = summary.get("head", {})
    rates = head.get("rates", {})
    lines = [f"\n{head.get('card', 'the card could not be asked')}, commit {head.get('commit', 'unknown')[:12]}"]
    if rates:
        products = ", ".join(f"{name} {rate:,.1f}" for name, rate in rates["products_tflops"].items())
        lines.append(
            f"{rates['products_in']} products in TFLOP/s: {products}; copy {rates['copy_tb_per_s']:.3f} TB/s read and written"
        )
    lines.append(f"{'part':<12} {'state':<10} {'seconds':>8} {'rows':>5} {'skipped':>8} {'failed':>7}")
    for name, part in summary["parts"].items():
        numbers = f"{part['seconds']:>8.1f} {part['rows']:>5} {part['rows_skipped']:>8} {part['rows_failed']:>7}"
        lines.append(f"{name:<12} {part['state']:<10} {numbers}  {part['why']}".rstrip())
    return "\n".join(lines)
