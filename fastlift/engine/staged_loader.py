"""The training batches of each epoch at its stage's size, and the backbone ready to take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastlift.data.loading.batch import Batch, Loader
from fastlift.models.resizing import Resizer
from fastlift.system.progress import Ui
from fastlift.training.stages import Stages


class StagedLoader:
    """See ``batch.Loader``: a loader a stage, opened when its first epoch comes; the one before is closed then.

    An epoch's batches are what a loader of that size alone would give: crop boxes know no size. Asking for an epoch resizes
    the backbone too, so that a resumed run is in the right stage; closing gives it back at its own size.

    Args:
        resizer: of the backbone, which is at its own size.
        make: from a side in pixels to a loader of training batches.
        steps_per_epoch: the same at every size.
        backend: what makes the batches.
        ui: told where a stage begins, where there are several.
    """

    def __init__(
        self,
        resizer: Resizer,
        stages: Stages,
        make: Callable[[int], Loader],
        *,
        steps_per_epoch: int,
        backend: str,
        ui: Ui,
    ) -> None:
        self.steps_per_epoch, self.backend = steps_per_epoch, backend
        self._resizer, self._stages, self._make, self._ui = resizer, stages, make, ui
        self._loader: Loader | None = None

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on, at the size of its stage."""
        side = self._stages.side(epoch)
        if self._loader is None or side != self._resizer.side:
            if self._stages.sizes > 1:
                self._ui.say(f"from epoch {epoch + 1} on: images of {side} pixels")
            self._close_loader()
            self._resizer.resize(side)
            self._loader = self._make(side)
        return self._loader.epoch(epoch, start_step)

    def close(self) -> None:
        """Close the loader of the last stage, and give the backbone back at its own size."""
        self._close_loader()
        self._resizer.restore()

    def _close_loader(self) -> None:
        if self._loader is not None:
            self._loader.close()
            self._loader = None
