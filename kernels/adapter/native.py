"""The adapter op on a CPU through the native library."""

import torch

from ..native.library import DTYPES, AdapterBackward, AdapterForward, call, pointer
from .arguments import AdapterArguments, AdapterGradients, AdapterIncoming, AdapterOutputs

# N tokens, D width, r rank


def forward(a: AdapterArguments, outputs: AdapterOutputs, products: torch.dtype) -> None:
    """Fill ``outputs``, for at least one token. The library multiplies in float32, whatever ``products`` says."""
    ln2, residual, statistics, hidden, _, _ = outputs
    tensors = (a.t, *_parameters(a), ln2, residual, *statistics.unbind(), hidden)  # the address of an empty one is null
    call("fastlift_adapter_forward", AdapterForward(*_sizes(a), *[pointer(x) for x in tensors]))


def backward(a: AdapterArguments, incoming: AdapterIncoming, gradients: AdapterGradients) -> None:
    """Fill ``gradients``, for at least one token."""
    d_residual, d_ln2, statistics, hidden, _, _ = incoming
    ln2_weight, _ln2_bias, *learned = _parameters(a)
    tensors = (a.t, d_ln2, d_residual, *statistics.unbind(), hidden, ln2_weight, *learned, *gradients)
    call("fastlift_adapter_backward", AdapterBackward(*_sizes(a), *[pointer(x) for x in tensors]))


def _sizes(a: AdapterArguments) -> tuple[float, ...]:
    return (*a.sizes, DTYPES[a.t.dtype], torch.get_num_threads(), a.eps, a.ln_eps)


def _parameters(a: AdapterArguments) -> list[torch.Tensor | None]:
    """All of them in float32, the scale as a tensor."""
    _t, *parameters, scale, fixed_scale, _eps, _ln_eps = a
    scale = torch.tensor([fixed_scale]) if scale is None else scale
    return [None if p is None else p.float() for p in (*parameters, scale)]
