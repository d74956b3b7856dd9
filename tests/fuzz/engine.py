"""One target under Atheris: ``python -m tests.fuzz.engine TARGET [libFuzzer's options]``."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["fastlift", "json", "gzip", "zipfile", "PIL", "numpy.lib"]):
    import fastlift.config
    import fastlift.data.datasets.inaturalist
    import fastlift.data.datasets.packed
    import fastlift.data.index.headers
    import fastlift.data.index.lists
    import fastlift.data.index.scan
    import fastlift.data.loading.decode
    import fastlift.data.pack
    import fastlift.interop.lift_checkpoints
    import fastlift.models.text.features  # noqa: F401

from tests.fuzz.targets import TARGETS, survives


def main() -> None:
    """Hand over to libFuzzer, which ends the process."""
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: survives(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
