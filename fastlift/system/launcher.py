"""What a launcher such as torchrun tells each process that it starts, in the environment; read without loading torch."""

import os

from fastlift.errors import UserError


def rank() -> int:
    """This process's number, from 0."""
    return _number("RANK", 0)


def processes() -> int:
    """How many processes were started together."""
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def keeps_notes() -> bool:
    """Whether the launcher keeps the store that the processes share, as torchrun does; else the first of them keeps it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def command() -> str:
    """What a user types for ``fastlift`` to start as many processes as there are now."""
    here = _number("LOCAL_WORLD_SIZE", 0)
    if processes() == 1 or not here:
        return "fastlift"
    return f"torchrun {f'--nproc-per-node {here}' if here == processes() else '...'} -m fastlift"


def local_rank() -> int:
    """This process's number among those on its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, without: int) -> int:
    """A variable of the environment, a whole number of 0 or more; ``without`` where it is not set."""
    text = os.environ.get(name, str(without))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"the environment has {name}={text[:40]!r}, which is no number of processes: unset it, or use torchrun"
        )
    return int(text)
