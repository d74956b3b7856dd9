"""``--dataset hf://user/name`` and ``--dataset huggingface``: data sets of Hugging Face's ``datasets``, of the hub or saved in a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.splits import finish
from fastlift.data.huggingface import Asked, encoded_splits
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError

_SAVED = "huggingface"
_ON_HUB = re.compile(r"hf://((?:[\w.-]+/)?[\w.-]+)(?::([^@]+))?(?:@(.+))?")


@dataclass(frozen=True)
class HuggingFace(Source):
    """A data set that was saved in a folder (``save_to_disk``), or one of the hub by its name: ``hf://user/name:config@revision``."""

    name: str = _SAVED
    takes_urls = False
    last_step = "rows and images, index"

    def named(self, name: str) -> Source | None:
        return HuggingFace(name) if name == _SAVED or _ON_HUB.fullmatch(name) else None

    def how_to_get(self) -> str:
        return "\nIt is what save_to_disk has written; one of the hub is --dataset hf://user/name."

    def load(self, request: Request) -> DataSet:
        problems, found = Problems(request.name), _ON_HUB.fullmatch(request.name)
        if found is not None:
            if request.data_root is not None:
                raise UserError(f"--data-root: {request.name} comes from the hub: leave it out")
            place, config, revision = found.groups()
        elif request.data_root is None:
            raise UserError(f"--dataset huggingface needs --data-root.{self.how_to_get()}")
        else:
            place, config, revision = str(request.data_root), None, None
        asked = Asked(request.name, request.columns, request.cache_dir, request.rescan)
        splits = encoded_splits(place, config, revision, asked, problems)
        return finish(request, splits, problems)


def named_on_hub(given: Any, config: str | None, revision: str | None) -> str | None:
    """``hf://user/name:config@revision`` of a name on the hub; None of an object, and of a folder that is there.

    Raises UserError for a path where no folder is, and for a config or revision of what is not on the hub.
    """
    is_place = isinstance(given, (str, Path))
    if is_place and not Path(given).expanduser().is_dir():
        text = str(given).removeprefix("hf://")
        name = f"hf://{text}{f':{config}' if config else ''}{f'@{revision}' if revision else ''}"
        if isinstance(given, str) and _ON_HUB.fullmatch(name) and not text.startswith("."):
            return name
        raise UserError(
            f"there is no folder {given}: expected one that save_to_disk has written, or a name on the hub (user/name)"
        )
    if unused := [name for name, value in {"config": config, "revision": revision}.items() if value]:
        what = f"{given} is a folder" if is_place else f"a {type(given).__name__} is given"
        raise UserError(f"{' and '.join(unused)}: only a name on the hub has one, and {what}: leave it out")
    return None


HUGGINGFACE = HuggingFace()
