"""What a launcher such as torchrun tells each process that it starts, in the environment; read without loading torch."""

import os


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int:
    """This process's number among those on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))
