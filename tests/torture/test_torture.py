"""A sample of the torture suite: commands hurt at chosen places, then finished, then compared bit for bit."""

import os
import random
import signal
from collections.abc import Iterator

import pytest
from fixtures import write_tiny_clip, write_tiny_data

from .cases import AtCall, AtMoment, AtOnce, Case, Vanishes, flips
from .harness import UNTRIED, Commands, build_faults
from .limits import OnFullDisk, UnderLimit, skipping
from .outputs import Outputs
from .scenarios import Scenarios

Ready = tuple[Commands, Scenarios]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    """A worker with the faults preloaded, and the runs that nothing happened to."""
    base = tmp_path_factory.mktemp("torture")
    try:
        library = build_faults(base)
    except RuntimeError as error:
        pytest.skip(f"faults need a compiler: {error}")
    data, work = base / "data", base / "work"
    data.mkdir()
    work.mkdir()
    write_tiny_clip(data)
    write_tiny_data(data)
    with Commands(work, base / "cache", library) as commands:
        yield commands, Scenarios(commands, data, base / "kept")


def perform(case: Case, ready: Ready) -> None:
    wrong = case.perform(*ready)
    if wrong == UNTRIED:
        pytest.skip(f"{case.name}: the command had ended before")
    assert wrong == "", case.name


@pytest.mark.parametrize(
    ("scenario", "kind", "share"),
    [
        ("train", "kill", 0.08),  # data.json is in the making
        ("train", "torn", 0.42),
        ("train", "full from then on", 0.55),
        ("train", "kill", 0.97),  # between results and report
        ("resume", "kill", 0.12),  # metrics.jsonl is written anew
        ("resume", "quota once", 0.5),
        ("overwrite", "kill", 0.05),  # the old run is on its way out
        ("overwrite", "read-only from then on", 0.3),
        ("evaluate", "kill", 0.6),
        ("report", "broken once", 0.5),
        ("predict", "full from then on", 0.5),
        ("predict to jsonl", "torn", 0.6),
        ("predict to parquet", "kill", 0.7),
        ("adapters", "kill", 0.8),  # the new file is in its place
        ("pack", "kill", 0.95),  # all is there but the manifest, which is written last
    ],
)
def test_hurt_at_a_call_that_writes(ready: Ready, scenario: str, kind: str, share: float) -> None:
    commands, scenarios = ready
    everything = (*scenarios.all(), *Outputs(commands, scenarios).all())
    chosen = next(found for found in everything if found.name == scenario)
    calls = chosen.calls(commands)
    at = 1 + int(share * len(calls))
    perform(AtCall(chosen, at, calls[at - 1], kind), ready)


@pytest.mark.parametrize("pages", [2, 24])
def test_a_disk_that_is_really_full(ready: Ready, pages: int) -> None:
    commands, scenarios = ready
    if not commands.mounts:
        pytest.skip("nothing can be mounted here")
    perform(OnFullDisk(scenarios.all()[0], "pages", pages), ready)


def test_too_few_open_files(ready: Ready) -> None:
    perform(UnderLimit(skipping(ready[1]), "NOFILE", 5), ready)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who runs nothing else")
def test_too_few_threads(ready: Ready) -> None:
    perform(UnderLimit(ready[1].all()[0], "NPROC", 1), ready)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL])
def test_signals_in_the_middle(ready: Ready, number: signal.Signals) -> None:
    perform(AtMoment(ready[1].all()[0], number, 0.6), ready)


def test_two_at_once(ready: Ready) -> None:
    train = ready[1].all()[0]
    for change in ("--resume", "--overwrite"):
        perform(AtOnce(train, (*ready[1].train, change)), ready)


def test_the_folder_vanishes(ready: Ready) -> None:
    perform(Vanishes(ready[1].all()[0], "checkpoints/epoch-001.safetensors"), ready)


def test_one_bit_is_another(ready: Ready) -> None:
    commands, scenarios = ready
    scenarios.ended(commands)
    for case in random.Random(0).sample(list(flips(commands.folder / "run", random.Random(0))), 12):
        perform(case, ready)
