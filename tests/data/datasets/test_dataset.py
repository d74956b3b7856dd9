"""A data set as a prompt and a notebook show it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fastlift.data import from_folder


def test_a_prompt_and_a_notebook_show_the_splits(tmp_path: Path) -> None:
    for name, count in {"cat & dog": 10, "hat": 5}.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    photos = from_folder(tmp_path)
    assert repr(photos) == "DataSet(folder: 12 training and 3 test images, 2 classes)"
    shown = photos._repr_html_()
    assert "2 classes" in shown
    for split, numbers in {"training": (12, 2, 8, 4), "test": (3, 2, 2, 1)}.items():
        row = "".join(f'<td style="text-align: right">{number}</td>' for number in numbers)
        assert f"<td>{split}</td>{row}" in shown
