"""What the processes of a run tell each other: that they are alike, what the first one found, where training starts.

Notes lie in the store that ``processes.company`` opens. They are JSON, no pickle. All but those about long work (of the first
rank, of the first of each machine, or of each its share of images) come within the time limit (``--timeout``).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastlift.config import Config, marked
from fastlift.data.datasets.dataset import SPLITS, DataSet
from fastlift.engine.ending import END
from fastlift.errors import UserError
from fastlift.models.precision import Amp, Shape, dtype_name, resolve_amp
from fastlift.settings import May
from fastlift.system.cuda import check_triton
from fastlift.system.device import versions
from fastlift.system.settings import DeviceSettings
from fastlift.training.distributed import LostCompany, TimeLimit, World, open_group, own_device, total
from fastlift_kernels import code_digest

Result = TypeVar("Result")
_PACKAGE = Path(__file__).parents[1]
_ROUNDING = 1e-2  # of the largest value; text features in bf16 differ by less on unlike processors


def agree(world: World, facts: Mapping[str, Any]) -> None:
    """Refuse facts that differ: on every rank, with the same message, which names them."""
    if world.size == 1:
        return
    mine = {name: str(value) for name, value in facts.items()}
    each = [json.loads(text) for text in _exchange(world, json.dumps(mine))]
    differing = [
        _who(world, name, [theirs.get(name, "none") for theirs in each]) for name in {n: 0 for e in each for n in e}
    ]
    told = "; ".join(filter(None, differing))
    if told:
        raise UserError(
            f"the processes of this run differ: {told}. Start all of them with the same command, data and versions"
        )


def agree_on(data: DataSet, world: World) -> None:
    """Refuse data sets that differ between the ranks: in their classes, or in what their indices hold."""
    agree(
        world,
        {
            "the number of classes": len(data.class_names),
            **{f"the {SPLITS[split]} data": index.fingerprint for split, index in data.splits.items()},
        },
    )


def join(world: World, config: Config, **given: Any) -> torch.device:
    """This rank's device, once all ranks are known to be asked for the same: settings, what else was ``given``, versions."""
    world.collectives.waiting.limit_s = config.run.timeout
    device = own_device(world, config.part(DeviceSettings).build())
    settings = {name: value for name, value in config.flat().items() if name not in marked(May.DIFFER)}
    packages = {f"the version of {package}": number for package, number in versions().items()}
    code = {"the code of fastlift": code_digest(_PACKAGE) + code_digest()} if world.size > 1 else {}
    agree(world, {"recipe": config.recipe, **settings, "the kind of device": device.type, **packages, **code, **given})
    open_group(world, device)
    check_triton(device)
    return device


def first_says(world: World, answer: Callable[[], str]) -> str:
    """The first rank's answer, for all; the others do not work theirs out."""
    mine = answer() if world.is_main else ""
    return mine if world.size == 1 else _exchange(world, mine)[0]


def each_says(world: World, answer: str, patience: float | None = None) -> list[str]:
    """What each rank answers, by rank, on all of them; they wait so many seconds, by default those of the time limit."""
    return [answer] if world.size == 1 else _exchange(world, answer, patience)


def first_does(world: World, work: Callable[[], None]) -> None:
    """Let the first rank alone do what may take hours; the others wait as long as it lives, whatever that takes.

    They wait for a note, since a collective would give up after minutes. Where the first rank is killed, its end takes the
    notes with it, or torchrun, which keeps them then, ends the others.
    """
    if world.is_main:
        work()
    if world.size > 1:
        _exchange(world, "", patience=math.inf)


def first_of_each_machine(world: World, work: Callable[[], Result]) -> Result:
    """What ``work`` gives, each rank's own: the first rank of each machine does it before the others of the run begin.

    So what it leaves in a cache, such as an index of millions of files, is made once a machine, and the others find it.
    """
    if world.size == 1:
        return work()
    if world.local_rank:
        _exchange(world, "", patience=math.inf)
        return work()
    result = work()
    _exchange(world, "", patience=math.inf)
    return result


def first_amp(world: World, name: str, device: torch.device, shape: Callable[[], Shape | None]) -> Amp:
    """``resolve_amp`` as the first rank does: others would measure beside it, and might find otherwise.

    Args:
        shape: asked for where a measurement decides.
    """
    found: list[Amp] = []

    def answer() -> str:
        measured = name == "auto" and device.type == "cpu"
        found.append(resolve_amp(name, device, shape() if measured else None))
        return dtype_name(found[0].dtype)

    chosen = first_says(world, answer)
    return found[0] if found else resolve_amp(chosen, device)


def first_values(world: World, own: Tensor) -> Tensor:
    """The first rank's values, on all ranks."""
    return total({"": own.clone() if world.is_main else torch.zeros_like(own)}, world)[""]


def take_first_values(world: World, parameters: Mapping[str, Tensor]) -> None:
    """Give ``parameters`` the first rank's values on all, so that they are equal to the last bit on unlike processors.

    Raises:
        UserError: a rank's own were others, by more than rounding.
    """
    if world.size == 1 or not parameters:  # none where nothing trains, as in zero-shot
        return
    own = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])
    first = first_values(world, own)
    sizes = [parameter.numel() for parameter in parameters.values()]
    pairs = list(zip(own.split(sizes), first.split(sizes), strict=True))
    near = all(bool((mine - theirs).abs().max() <= _ROUNDING * theirs.abs().max()) for mine, theirs in pairs)
    agree(world, {"the initial values of what trains": "that of rank 0" if near else "another"})
    with torch.no_grad():
        for parameter, (_, theirs) in zip(parameters.values(), pairs, strict=True):
            parameter.copy_(theirs.view_as(parameter))


def _exchange(world: World, text: str, patience: float | None = None) -> list[str]:
    """What each rank says, by rank; waits for all of them so many seconds, by default those of the time limit."""
    assert world.store is not None
    number, patience = next(world.notes), world.collectives.waiting.limit_s if patience is None else patience
    keys = [f"{number}/{rank}" for rank in range(world.size)]
    deadline = time.monotonic() + patience
    try:
        world.store.set(keys[world.rank], text)
        for key in keys:
            _wait_for_note(world, key, keys, deadline, patience)
        return [world.store.get(key).decode() for key in keys]
    except RuntimeError as error:
        raise LostCompany("the process that keeps this run's notes has ended", exit_code=1) from error


def _wait_for_note(world: World, key: str, keys: list[str], deadline: float, patience: float) -> None:
    """Until a note of another rank is there; an error where it does not come, or some rank has ended."""
    assert world.store is not None
    pause = 0.01
    while not world.store.check([key]):
        if world.store.check([END]) and not world.store.check([key]):  # it may have left the note and ended since
            raise LostCompany("another process of this run has ended", exit_code=1)
        if time.monotonic() > deadline:
            missing = world.named(rank for rank, one in enumerate(keys) if not world.store.check([one]))
            raise TimeLimit(
                f"waited {patience:g} s (--timeout) for other processes, at {world.collectives.waiting.during()}: {missing} did "
                "not come",
                exit_code=1,
            )
        time.sleep(pause)
        pause = min(1.1 * pause, 0.2)  # the keeper of the notes answers all that wait


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _who(world: World, name: str, values: Sequence[str]) -> str:
    """``lr is 0.1 on rank 0 (HOST) and 0.2 on ranks 1, 2 (HOST)``; nothing where all are the same."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    if len(ranks) == 1:
        return ""
    where = [f"{_short(value)} on {world.named(of)}" for value, of in ranks.items()]
    return f"{name} is {' and '.join(where)}"
