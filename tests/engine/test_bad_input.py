"""Processes that are not alike, or that lack something: all stop at once, and one sentence names the difference and whose it is.

``test_processes.py`` has the settings that differ; here each rank has, by its name, a machine of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fixtures import Files, write_tiny_clip, write_tiny_data
from ranks import command, on_hosts, told
from several import Group, Outcome

from fastlift import cli
from fastlift.engine import agreement, meeting, processes
from fastlift.engine.processes import company
from fastlift.errors import UserError
from fastlift.reporting import html
from fastlift.training.distributed import World, own_device


def on_its_machine(arguments: list[str], other: dict[str, Any]) -> None:
    """The command, on a machine of the rank's own; what of ``agreement`` is ``other`` there."""
    on_hosts()
    html.render_report = lambda *_, **__: ""
    processes.NOTING_S = 1.0 if other.pop("alone", True) else 30.0
    for name, value in other.items():
        setattr(agreement, name, lambda *_, value=value: value)
    sys.exit(cli.main(arguments))


@dataclass
class Ranks:
    """What the ranks are given, of which the second differs."""

    clip: Files
    data: Path
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def end(self, *ranks: tuple[list[str], dict[str, Any]]) -> list[Outcome]:
        """How they end, within seconds, with one message."""
        began = time.monotonic()
        outcomes = Group(self.folder / "said", len(ranks), on_its_machine, ranks, own=True).join(60)
        assert time.monotonic() - began < 60
        assert not self.run.exists()
        return outcomes

    def command(self, **changed: Path) -> list[str]:
        return command(changed.get("clip", self.clip), changed.get("data", self.data), self.run)  # type: ignore[arg-type]


@pytest.fixture
def ranks(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> Ranks:
    return Ranks(tiny_clip, tiny_data, tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"code_digest": "feed"},
            r"the code of fastlift is \w+ on rank 0 \(node-0\) and feedfeed on rank 1 \(node-1\)",
        ),
        (
            {"versions": {"torch": "1.0"}},
            r"the version of torch is \S+ on rank 0 \(node-0\) and 1.0 on rank 1 \(node-1\)",
        ),
    ],
)
def test_other_code_and_other_versions(other: dict[str, Any], message: str, ranks: Ranks) -> None:
    outcomes = ranks.end((ranks.command(), {}), (ranks.command(), other))
    assert [outcome.code for outcome in outcomes] == [2, 2]
    (said,) = told(outcomes)
    assert said.startswith("fastlift: the processes of this run differ: ")
    assert re.search(message, said), said


def test_other_weights(ranks: Ranks) -> None:
    """Of the same name and shapes, on a machine that has not got the new ones yet."""
    other = ranks.folder / "other"
    other.mkdir()
    write_tiny_clip(other, seed=1)
    shutil.copy(ranks.clip[0], ranks.folder)
    mine, theirs = ranks.command(), ranks.command()
    theirs[theirs.index("--pretrained") + 1] = str(other / ranks.clip[1].name)
    same = {"marked": {"pretrained"}}  # as if the paths were the same: each machine has its own disk
    outcomes = ranks.end((mine, same), (theirs, same))
    assert [outcome.code for outcome in outcomes] == [2, 2]
    (said,) = told(outcomes)
    assert "the processes of this run differ: the backbone's weights is" in said
    assert said.count("node-") == 2


def fewer_classes(ranks: Ranks) -> Path:
    data = write_tiny_data(ranks.folder / "other")
    for name in ("train.txt", "test.txt"):
        kept = [line for line in (data / name).read_text().splitlines() if not line.endswith(" 5")]
        (data / name).write_text("\n".join(kept) + "\n")
    names = (data / "class_names.txt").read_text().splitlines()
    (data / "class_names.txt").write_text("\n".join(names[:5]) + "\n")
    return data


def another_image(ranks: Ranks) -> Path:
    data = write_tiny_data(ranks.folder / "other")
    (data / "train.txt").write_text("".join(reversed((data / "train.txt").open().readlines())))
    return data


# Each machine has its own under the same names.
LISTS = {"marked": {"train_list", "test_list", "class_names", "data_root"}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fewer_classes, "the number of classes is 6 on rank 0 (node-0) and 5 on rank 1 (node-1); the training data is"),
        (another_image, "differ: the training data is"),
    ],
)
def test_other_data(make: Callable[[Ranks], Path], message: str, ranks: Ranks) -> None:
    theirs = make(ranks)
    outcomes = ranks.end((ranks.command(), LISTS), (ranks.command(data=theirs), LISTS))
    assert [outcome.code for outcome in outcomes] == [2, 2]
    (said,) = told(outcomes)
    assert message in said


@pytest.mark.parametrize("lacks", ["train.txt", "train", "train/class0/3.jpg", "class_names.txt", "weights"])
def test_a_machine_that_lacks_a_file(lacks: str, ranks: Ranks) -> None:
    """Named with its rank; where all lack it, no rank is named."""
    data, clip = write_tiny_data(ranks.folder / "there"), ranks.clip
    plain = command(clip, data, ranks.run)
    theirs = command(clip, write_tiny_data(ranks.folder / "lacking"), ranks.run)
    if lacks == "weights":
        theirs = list(plain)
        theirs[theirs.index("--pretrained") + 1] = str(ranks.folder / "lacking" / "weights.safetensors")
        same = {"marked": {"pretrained"}}
    else:
        gone = ranks.folder / "lacking" / lacks
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        same = LISTS
    outcomes = ranks.end((plain, same), (theirs, same), (plain, same))
    assert len({outcome.code for outcome in outcomes}) == 1
    assert outcomes[0].code in (1, 2)
    (said,) = told(outcomes)
    assert said.startswith("fastlift: rank 1 (node-1): "), said
    assert Path(lacks).name in outcomes[1].err.split("fastlift: rank 1")[1]  # a list of problems has lines


def test_what_all_lack_names_no_rank(ranks: Ranks) -> None:
    (ranks.folder / "empty").mkdir()
    lacking = ranks.command(data=ranks.folder / "empty")
    outcomes = ranks.end(*[(lacking, {"alone": False})] * 3)  # however late one of them is
    (said,) = told(outcomes)
    assert said == f"fastlift: list file {ranks.folder}/empty/class_names.txt does not exist"


def test_a_batch_that_is_smaller_than_the_number_of_processes(ranks: Ranks) -> None:
    small = [*ranks.command(), "--batch-size", "2"]
    outcomes = ranks.end((small, {}), (small, {}), (small, {}))
    assert [outcome.code for outcome in outcomes] == [2, 2, 2]
    (said,) = told(outcomes)
    assert said == "fastlift: batch_size: 2 images cannot be shared by 3 processes; start fewer"


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(World(1, 3, 1), torch.device("cuda")) == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"process 3 of this machine, which has 2 GPU\(s\): start as many as there are"):
        own_device(World(2, 3, 2), torch.device("cuda"))


def meets(where: str, port: int) -> None:
    """A process that looks for the others of its run."""
    on_hosts()
    meeting.MEETING_S, meeting._SILENT_S = 1.0, 5.0
    os.environ |= {"MASTER_ADDR": where, "MASTER_PORT": str(port)}
    sys.exit(cli.main(["train", "--output", "nowhere"]))


def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    """The first process cannot listen there, the others get no answer."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        outcomes = Group(tmp_path, 2, meets, ("127.0.0.1", port)).join(60)
    assert [outcome.code for outcome in outcomes] == [2, 2]
    first, second = told(outcomes)
    assert f"rank 0 (node-0): the port of 127.0.0.1:{port} is in use by another program" in first
    assert f"rank 1 (node-1): what listens at 127.0.0.1:{port} does not answer as a process of this run would" in second


def test_a_first_process_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        outcomes = Group(tmp_path, 1, missing_one, (1, "127.0.0.1", port)).join(60)
    (said,) = told(outcomes)
    assert (
        f"rank 1 (node-1) found no process of this run at 127.0.0.1:{port} within 1 s: is the first one started there"
        in said
    )


def missing_one(rank: int, where: str, port: int) -> None:
    """One of two processes, alone."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    meets(where, port)


def test_a_process_that_does_not_come(tmp_path: Path) -> None:
    outcomes = Group(tmp_path, 1, missing_one, (0, "127.0.0.1", 0)).join(60)
    (said,) = told(outcomes)
    assert "not all of the 2 processes of this run connected to 127.0.0.1:0 within 1 s" in said


def test_a_rank_of_another_start_is_passed_over(tmp_path: Path) -> None:
    """What a start has left in the store, its end too, is not the next one's; nor are its ranks, whatever they have asked."""
    outcomes = Group(tmp_path, 2, starts_again, ()).join(60)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert outcomes[0].value == outcomes[1].value == ["first", "second"]


def test_the_number_of_a_process_that_has_ended_is_answered_in_vain() -> None:
    """The first rank finds it before the second one of its own start has asked: that one is answered all the same."""
    notes, deadline = dist.HashStore(), time.monotonic() + 30
    notes.set("here/1", "stale")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meeting._same_start, notes, 0, 2, deadline)
        while not notes.check(["start/stale"]) and not first.done():
            time.sleep(0.01)
        second = meeting._same_start(notes, 1, 2, deadline)
        assert first.result() == second


def starts_again() -> list[str]:
    """Two starts in one store, as torchrun's agent keeps it; the first one ends with an error."""
    from fastlift.engine.agreement import first_says

    said = []
    for name in ("first", "second"):
        meeting._numbers = iter([7])  # the second start's processes count from the beginning again
        try:
            with company() as world:
                said.append(first_says(world, lambda name=name: name))
                if name == "first":
                    raise UserError("this start fails")
        except UserError:
            assert name == "first"
    return said
