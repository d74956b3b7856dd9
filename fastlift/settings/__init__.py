"""How settings are declared, converted and checked.

Each part of fastlift declares its own settings beside what they build: a frozen dataclass that derives from ``Settings``, with
a default and a docstring (the text of ``--help``) for each, its choices (``Literal``), its range (``Between``), what it
depends on (``Acts``), what contradicts what (``RULES``), and what may differ where (``May``). This room holds the words of
these declarations and the one validator that reads them. Imports ``errors``. Imported by ``system``, ``data``, ``models``,
``training``, ``evaluation``, ``advice``, ``callbacks``, ``config``, ``runs``, ``interop``, ``reporting``, ``engine``, ``soups``, ``serving``, ``recipes``,
``commands`` and ``cli``.
"""

from fastlift.settings.base import Settings, converted
from fastlift.settings.convert import keywords
from fastlift.settings.declare import (
    MOST,
    MOST_PIXELS,
    MOST_THREADS,
    SEED,
    SIZE,
    Acts,
    Between,
    May,
    NamesFile,
    NamesPlace,
)
from fastlift.settings.names import one_of
from fastlift.settings.validate import check_effects, check_range, check_rules, hints_of, marker, plain

__all__ = [
    "MOST",
    "MOST_PIXELS",
    "MOST_THREADS",
    "SEED",
    "SIZE",
    "Acts",
    "Between",
    "May",
    "NamesFile",
    "NamesPlace",
    "Settings",
    "check_effects",
    "check_range",
    "check_rules",
    "converted",
    "hints_of",
    "keywords",
    "marker",
    "one_of",
    "plain",
]
