"""A GPU that computes nothing: tensors with a shape, a dtype and the device ``cuda:0``, on a machine without one.

An op that meets a tensor of the CPU there fails, as on a GPU, and so does what reads a value back from the device. What torch
does in C++ for devices that are there (the autograd engine, fused optimisers) stays out: ``backward`` gives gradients of
zeros, and the optimiser's step changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

GPU = torch.device("cuda", 0)


class FakeGpu:
    """What moves there."""

    def tensor(self, real: Tensor) -> Tensor:
        """A tensor like a real one, on the GPU."""
        return torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=GPU)

    def module(self, real: Any) -> Any:
        """Move a module to the GPU in place, a LiftModel's own table of parameters too."""
        names = {id(parameter): name for name, parameter in real.named_parameters()}
        for part in real.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(self.tensor(parameter), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.tensor(buffer)
        moved = dict(real.named_parameters())
        if hasattr(real, "tuner_parameters"):
            real.tuner_parameters = {key: moved[names[id(value)]] for key, value in real.tuner_parameters.items()}
        return real


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Work with fake tensors meanwhile."""

    def backward(self: Tensor, *_: Any, **__: Any) -> None:
        for leaf in _leaves(self.grad_fn):
            leaf.grad = torch.zeros_like(leaf)

    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    with FakeTensorMode():
        _check_that_no_driver_is_asked()
        yield FakeGpu()


def _check_that_no_driver_is_asked() -> None:
    """Skip where autograd asks for a driver even for tensors that are not there: torch 2.9 does, 2.11 does not."""
    try:
        torch.empty(2, device=GPU)[0]
    except torch.AcceleratorError as error:
        pytest.skip(f"torch {torch.__version__} cannot pretend a GPU: {str(error).splitlines()[0]}")


def _leaves(node: Any) -> list[Tensor]:
    """The leaves of an autograd graph."""
    seen, waiting, found = set(), [node], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return found
