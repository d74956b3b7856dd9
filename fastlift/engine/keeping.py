"""What a run keeps of an evaluation beside its figures: what the model said of each image, and thumbnails of some."""

from __future__ import annotations

from collections.abc import Sequence

from fastlift.data.index.index import ImageIndex
from fastlift.evaluation.per_image import PerImage
from fastlift.evaluation.thumbnails import ThumbnailSettings, make_thumbnails
from fastlift.runs.folder import RunFolder
from fastlift.runs.predictions import predictions_of, predictions_path, write_predictions
from fastlift.system.progress import Ui


def keep_per_image(
    run: RunFolder,
    name: str,
    found: PerImage,
    index: ImageIndex,
    class_counts: Sequence[int],
    settings: ThumbnailSettings,
    ui: Ui,
) -> None:
    """Write the predictions of an evaluation into the run folder.

    Args:
        name: of the evaluation, as the results have it.
        class_counts: training images of each class (of each group, where groups were evaluated).

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    rows = found.rows[settings.choose(found, class_counts)].tolist()
    thumbnails = make_thumbnails(index, rows, ui.say)
    write_predictions(predictions_path(run.path, name), predictions_of(found, index, thumbnails, settings.thumbnails))
