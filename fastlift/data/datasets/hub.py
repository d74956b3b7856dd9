"""``--dataset hf://user/name`` and ``--dataset huggingface``: data sets of Hugging Face's ``datasets``, of the hub or saved in a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.splits import finish
from fastlift.data.huggingface import encoded_splits
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
        splits = encoded_splits(place, config, revision, request.columns, request.name, problems)
        return finish(request, splits, problems)


HUGGINGFACE = HuggingFace()
