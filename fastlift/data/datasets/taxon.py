"""Which rank of a taxonomy the classes are: the set's own species, or their groups at a higher rank."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from fastlift.data.datasets.dataset import DataSet, Rank
from fastlift.data.index.index import ImageIndex
from fastlift.errors import UserError
from fastlift.settings import Settings

Taxon = Literal["species", "genus", "family", "order", "class", "phylum", "kingdom"]
SPECIES, *_higher = get_args(Taxon)
RANKS = tuple(reversed(_higher))  # above species, from the highest to the lowest


@dataclass(frozen=True)
class TaxonSettings(Settings):
    """What the classes of a taxonomy are."""

    taxon: Taxon = "species"
    """What the classes of iNaturalist are: its species, or their groups at a higher rank."""

    def build(self, data: DataSet) -> DataSet:
        """The set with classes of this rank, and so with the groups by count of the rank.

        Raises UserError where the set's files do not tell the rank, or all of its species are of one.
        """
        if self.taxon == SPECIES:
            return data
        rank = rank_at(data, self.taxon)
        if len(rank.names) < 2:
            raise UserError(
                f"taxon {self.taxon}: all species of {data.name} are of one, so there is nothing to tell apart"
            )
        counts = np.zeros(len(rank.names), dtype=np.int64)
        np.add.at(counts, rank.of_class, data.group_counts)
        grouped = data.changed(lambda index: self._relabelled(index, rank))
        return replace(grouped, class_names=rank.names, group_counts=counts, ranks={})

    def _relabelled(self, index: ImageIndex, rank: Rank) -> ImageIndex:
        hashed = hashlib.sha256(f"{index.fingerprint} {self.taxon}".encode()).hexdigest()[: len(index.fingerprint)]
        return replace(index, labels=rank.of_class[index.labels], class_names=rank.names, fingerprint=hashed)


def rank_at(data: DataSet, taxon: str) -> Rank:
    """How a set's species are grouped at a higher rank; raises UserError where its files do not tell that rank."""
    if taxon not in data.ranks:
        known = f"only {', '.join(data.ranks)}" if data.ranks else "no ranks"
        hint = "ranks come with the categories.json of iNaturalist 2018"
        raise UserError(f"taxon {taxon}: {data.name} has {known} above its classes; {hint}")
    return data.ranks[taxon]
