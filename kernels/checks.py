"""Checks of arguments that all ops share; every message names the argument and what was expected."""

from collections.abc import Callable
from typing import Any

import torch

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

PLAIN = (torch.Tensor, torch.nn.Parameter)  # classes whose operations nothing overrides
MOST_SEEN = 4096  # entries kept: shapes that keep changing must not fill the memory

_Tensor = torch.Tensor
_seen: dict[Any, bool] = {}


def check_once(check: Callable[[Any], None], arguments: tuple[Any, ...]) -> bool:
    """Run ``check(arguments)``, unless it has passed the same classes, shapes, dtypes, devices and numbers before.

    While ``torch.compile`` traces, the check runs in any case.

    Returns:
        whether no tensor is of a subclass; False while ``torch.compile`` traces.

    Raises:
        what ``check`` raises.
    """
    if torch.compiler.is_compiling():
        check(arguments)
        return False
    # Written out and not a function, since this runs in every call.
    kinds = [(x.__class__, x.shape, x.dtype, x.device, x.layout) if isinstance(x, _Tensor) else x for x in arguments]
    key: Any = (check, tuple(kinds))
    try:
        known = _seen.get(key)
    except TypeError:  # something that cannot be hashed, and so no argument of an op
        known = key = None
    if known is not None:
        return known
    check(arguments)
    plain = all(type(x) in PLAIN for x in arguments if isinstance(x, torch.Tensor))
    if key is not None:
        if len(_seen) >= MOST_SEEN:
            _seen.clear()
        _seen[key] = plain
    return plain


def check_activations(name: str, tensor: object) -> None:
    """Raise TypeError unless ``tensor`` is a strided tensor of a floating dtype the ops can read."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in COMPUTE_DTYPES:
        raise TypeError(f"{name}: expected float32, bfloat16, float16 or float64, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")


def check_parameter(name: str, tensor: object, shape: tuple[int, ...], like_name: str, like: torch.Tensor) -> None:
    """Raise unless ``tensor`` has ``shape``, lies on the device of ``like`` and has its dtype or float32."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {list(shape)}, got {type(tensor).__name__}")
    if tensor.dtype != like.dtype and tensor.dtype != torch.float32:
        raise TypeError(f"{name}: expected float32 or {like_name}'s dtype {like.dtype}, got {tensor.dtype}")
    check_like(name, tensor, shape, (tensor.dtype,), like_name, like)


def check_like(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    like_name: str,
    like: torch.Tensor,
) -> None:
    """Raise unless ``tensor`` is dense, has ``shape`` and one of ``dtypes``, and lies on the device of ``like``."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(str(d) for d in dtypes)}, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected device {like.device}, where {like_name} lies, got {tensor.device}")


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a number: a tensor would be read back from its device, and its gradient lost."""
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")


def as_float(value: float) -> float:
    """A whole number as a float, which is what kernels are compiled for; what is no number is left to the check."""
    return float(value) if isinstance(value, int) else value


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above zero."""
    check_number(name, value)
    if not 0.0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")
