"""``data stats`` counts right."""

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from fastlift.data.inspection.stats import describe, long_tail_plot, stats


def text_of(renderable: Any) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_stats_count_images_and_groups(image_files: Any) -> None:
    image_files.fill()
    for k in range(5, 25):
        image_files.add(f"c2/{k}.jpg", 2, (image_files.root / "c2" / "0.jpg").read_bytes())
    data = image_files.load()
    found = stats("list", **image_files.options())
    assert found == describe(data)
    assert found.train_counts == (5, 5, 25)
    assert (
        found.splits["train"].largest_class,
        found.splits["train"].smallest_class,
        found.splits["train"].images,
    ) == (25, 5, 35)
    assert found.groups["few"] == {"classes": 2, "train_images": 10, "test_images": 10}
    assert found.groups["medium"] == {"classes": 1, "train_images": 25, "test_images": 25}
    assert found.groups["many"]["classes"] == 0
    moved = stats("list", boundaries=(5, 24), **image_files.options()).groups
    assert {name: row["classes"] for name, row in moved.items()} == {"many": 1, "medium": 2, "few": 0}
    assert found.splits["train"].width_quantiles["min"] == 80
    assert found.splits["train"].width_quantiles["max"] == 80 + 7 * 4
    json.dumps(found.to_dict())
    shown = text_of(found.render())
    assert "medium" in shown
    assert "█" in shown


@pytest.mark.parametrize("counts", [[5000, 50], [1], [0, 0], list(range(1000, 0, -1))])
def test_the_plot_slopes_down(counts: list[int]) -> None:
    rows = long_tail_plot(counts, width=20, height=4).splitlines()
    assert len(rows) == 5
    assert f"{max(counts):,} down to {min(counts):,}" in rows[-1]
    heights = [
        sum(" ▁▂▃▄▅▆▇█".index(row[k]) if k < len(row) else 0 for row in rows[:-1]) for k in range(min(20, len(counts)))
    ]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == (32 if max(counts) > 1 else heights[0])
