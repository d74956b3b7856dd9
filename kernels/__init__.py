"""The fused operations of LIFT, usable without fastlift: torch (and, on GPUs, triton) are all they need.

``adapter``, ``cosine_cross_entropy``, ``quick_gelu`` and ``gelu`` choose their implementation by the tensor's device;
``available()`` says what this machine has and what is missing.
"""

from .activation.op import gelu, quick_gelu
from .adapter.op import adapter
from .cosine_ce.op import cosine_cross_entropy
from .dispatch import Impl, available

__all__ = ["Impl", "adapter", "available", "cosine_cross_entropy", "gelu", "quick_gelu"]
