"""The names of what a learner keeps beside what trains: ``SLOT.NAME``, such as ``momentum.head.weight`` and ``ema.head.weight``."""

from __future__ import annotations

# What torch's optimisers call what they keep -> the slot's name in checkpoints and messages.
SLOTS = {"momentum_buffer": "momentum", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"}
AVERAGE = "ema"  # the slot of the average of what trains
_ALL = (*SLOTS.values(), AVERAGE)


def is_kept(key: str) -> bool:
    """Whether a checkpoint's ``key`` names something that is kept; all else is what trains."""
    return key.partition(".")[0] in _ALL


def parameter_of(key: str) -> str:
    """The parameter that a state's ``key`` is about: ``head.weight`` of ``momentum.head.weight`` and of itself."""
    return key.partition(".")[2] if is_kept(key) else key
