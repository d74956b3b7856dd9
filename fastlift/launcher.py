"""What a launcher such as torchrun tells each process that it starts, in the environment; read without loading torch."""

import os


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def keeps_notes() -> bool:
    """Whether the launcher keeps the store that the processes share, as torchrun does; else the first of them keeps it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def command() -> str:
    """What a user types for ``fastlift`` to start as many processes as there are now."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if processes() == 1 or not here:
        return "fastlift"
    return f"torchrun {f'--nproc-per-node {here}' if here == processes() else '...'} -m fastlift"


def local_rank() -> int:
    """This process's number among those on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))
