"""What a run lists of the images that others replace."""

from pathlib import Path

import numpy as np

from fastlift.data.index.index import BadImage, ImageIndex, PathTable
from fastlift.runs.bad_images import BadImages
from fastlift.runs.folder import RunFolder


def index(split: str) -> ImageIndex:
    sizes = np.ones(3, dtype=np.int32)
    paths = PathTable.from_strings(["a.jpg", "b\t.jpg", "c.jpg"])
    return ImageIndex(f"list/{split}", Path("root"), paths, np.zeros(3, dtype=np.int64), sizes, sizes, ("x",), "")


def test_an_image_is_listed_once_over_resumed_runs(tmp_path: Path) -> None:
    """By split and path: a resumed run may find another reason, or another replacement."""
    run = RunFolder(tmp_path)
    for reason, other in (("is truncated", 2), ("is missing", 2), ("is truncated", 0)):
        listed = BadImages(run)  # of a run that goes on
        for _ in range(2):
            listed.of(index("train"))(BadImage(1, "b\t.jpg", reason, other))
        listed.of(index("test"))(BadImage(0, "a.jpg", reason, other))
    assert listed.lines() == [
        "list/train\tb\\t.jpg\tis truncated\tc.jpg",
        "list/test\ta.jpg\tis truncated\tc.jpg",
    ]
