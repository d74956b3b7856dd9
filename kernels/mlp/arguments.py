"""What the MLP op takes, keeps and gives, each stated once; and the checks of it, before anything reads it."""

from typing import Any, Literal, NamedTuple

import torch

from ..activation.registered import KINDS
from ..checks import check_activations, check_like, check_parameter
from ..registration import needs_gradients

# N tokens, D width, M MLP width

Kind = Literal["quick_gelu", "gelu"]


class MlpArguments(NamedTuple):
    """The arguments of a call. Weights have the dtype of ``x``; vectors have it too, or are float32."""

    x: torch.Tensor  # [.., D]
    in_weight: torch.Tensor  # [M, D]
    in_bias: torch.Tensor | None  # [M]
    out_weight: torch.Tensor  # [D, M]
    out_bias: torch.Tensor | None  # [D]
    residual: torch.Tensor  # as x
    scale: torch.Tensor | None  # [D], LayerScale
    kind: Kind

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(N, D, M)."""
        M, D = self.in_weight.shape
        return self.x.numel() // D, D, M


class MlpOutputs(NamedTuple):
    """What forward gives."""

    y: torch.Tensor  # as x
    pre: torch.Tensor  # [N, M], the pre-activation, kept for backward; empty where nobody wants it


def check(arguments: tuple[Any, ...]) -> None:
    """Raise TypeError or ValueError, which name the argument, unless these :class:`MlpArguments` are those of one call."""
    a = MlpArguments(*arguments)
    check_activations("x", a.x)
    if a.x.dim() == 0 or a.x.shape[-1] == 0:
        raise ValueError(f"x: expected [.., D], got shape {list(a.x.shape)}")
    D = a.x.shape[-1]
    if not isinstance(a.in_weight, torch.Tensor) or a.in_weight.dim() != 2 or a.in_weight.shape[0] == 0:
        got = list(a.in_weight.shape) if isinstance(a.in_weight, torch.Tensor) else type(a.in_weight).__name__
        raise ValueError(f"in_weight: expected [M, {D}], got {got}")
    M = a.in_weight.shape[0]
    for name, weight, shape in (("in_weight", a.in_weight, (M, D)), ("out_weight", a.out_weight, (D, M))):
        if not isinstance(weight, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor {list(shape)}, got {type(weight).__name__}")
        check_like(name, weight, shape, (a.x.dtype,), "x", a.x)
    check_activations("residual", a.residual)
    check_like("residual", a.residual, tuple(a.x.shape), (a.x.dtype,), "x", a.x)
    for name, vector, size in (("in_bias", a.in_bias, M), ("out_bias", a.out_bias, D), ("scale", a.scale, D)):
        if vector is not None:
            check_parameter(name, vector, (size,), "x", a.x)
    if a.kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {a.kind!r}")


def check_frozen(a: MlpArguments) -> None:
    """Raise ValueError where a weight requires gradients, which is no part of what :func:`check` has seen before."""
    if needs_gradients((a.in_weight, a.in_bias, a.out_weight, a.out_bias, a.scale)):
        named = ((name, x) for name, x in a._asdict().items() if name not in ("x", "residual"))
        name = next(name for name, x in named if isinstance(x, torch.Tensor) and x.requires_grad)
        raise ValueError(f"{name}: expected a frozen tensor, got one that requires gradients")
