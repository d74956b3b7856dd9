"""The fuzzers' corpus is tried again in every run of the suite, with changes that do not depend on luck."""

import contextlib
import random
from pathlib import Path

import pytest

from .targets import EXPECTED, TARGETS, survives

CORPUS = Path(__file__).with_name("corpus")
INPUTS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


def changed(data: bytes, draw: random.Random) -> bytes:
    """Bytes with one bit, byte, stretch or end changed."""
    kind, at = draw.randrange(5), draw.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9))) + data[at:]
    if kind == 2:
        return data[:at] + data[at + draw.randrange(1, 17) :]
    if kind == 3:
        return (
            data[:at] + draw.choice((b"9" * 500, b"[" * 2000, b"\0", b"\xff\xfe", b"-1", b"null", b"NaN")) + data[at:]
        )
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :] if at < len(data) else data


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.filterwarnings("ignore::fastlift.errors.FastliftWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_seeds_reach_into_the_reader(name: str) -> None:
    """What is refused at its first bytes, as a file of an older layout, leads the fuzzer nowhere."""
    accepted = []
    for path in INPUTS:
        if path.parent.name == name:
            with contextlib.suppress(EXPECTED):
                TARGETS[name](path.read_bytes())
                accepted.append(path)
    assert accepted


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_corpus(path: Path) -> None:
    data, draw = path.read_bytes(), random.Random(path.name)
    survives(TARGETS[path.parent.name], data)
    for _ in range(40):
        survives(TARGETS[path.parent.name], changed(data, draw))
