"""Checks of arguments that all ops share; every message names the argument and what was expected."""

import torch

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != like.dtype and tensor.dtype != torch.float32:
        raise TypeError(f"{name}: expected float32 or {like_name}'s dtype {like.dtype}, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected device {like.device}, where {like_name} lies, got {tensor.device}")


def check_kept(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], like: torch.Tensor
) -> None:
    """Raise unless ``tensor``, which one op hands to the next, has ``shape``, one of ``dtypes`` and the device of ``like``."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(str(d) for d in dtypes)}, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected device {like.device}, got {tensor.device}")


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a number: a tensor would be read back from its device, and its gradient lost."""
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above zero."""
    check_number(name, value)
    if not 0.0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")
