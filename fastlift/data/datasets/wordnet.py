"""Words for folders that are named by WordNet ids (``n01440764``), as ImageNet's and its relatives' are.

ImageNet's 1,000 have CLIP's names, which are the class names that LIFT uses too. timm, which fastlift needs anyway, brings the lemmas
of all 21,844 synsets of the full ImageNet.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fastlift.data.datasets.published_lists import SHIPPED
from fastlift.data.index.lines import read_lines

_ID = re.compile(r"n\d{8}")
_ID_AND_WORDS = re.compile(r"n\d{8}[ _-]+(?=\S*[^\W\d_])(.+)")


def names_of_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """The class names of folders: their own names, but words for WordNet ids, and what stands behind an id.

    Different folders have different names, as they came: where two ids have one word, more of their words are taken, then
    the id itself. Ids that nobody knows stay.
    """
    if not any(map(_ID.match, folders)):
        return tuple(folders)
    if all(map(_ID_AND_WORDS.fullmatch, folders)):
        ways = [[_ID_AND_WORDS.sub(r"\1", folder)] for folder in folders]
    else:
        ways = [_words(folder) if _ID.fullmatch(folder) else [folder] for folder in folders]
    names = [way[0] for way in ways]
    for step in range(1, 1 + max(map(len, ways))):
        taken = Counter(names)
        for row, name in enumerate(names):
            if taken[name] > 1 and folders[row] != name:
                names[row] = [*ways[row], f"{ways[row][0]} ({folders[row]})"][min(step, len(ways[row]))]
    return tuple(names)


def _words(synset: str) -> list[str]:
    """What a synset is called, the best name first; its id where nobody knows it."""
    if (name := _imagenet().get(synset)) is not None:
        return [name, *_more(synset)]
    return _more(synset) or [synset]


def _more(synset: str) -> list[str]:
    """Its first lemma, then all of them."""
    if (lemmas := _lemmas().get(synset)) is None:
        return []
    first = lemmas.split(", ")[0]
    return [first] if first == lemmas else [first, lemmas]


@functools.cache
def _imagenet() -> dict[str, str]:
    lines = read_lines(SHIPPED / "ImageNet_LT_classnames.txt.gz")
    return dict(line.split(" ", 1) for line in lines)


@functools.cache
def _lemmas() -> dict[str, str]:
    """timm's table, read without importing timm, which takes seconds; empty where this version has it elsewhere."""
    found = find_spec("timm")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder) / "data" / "_info" / "imagenet_synset_to_lemma.txt"
        if file.is_file():
            return dict(line.split("\t", 1) for line in read_lines(file))
    return {}
