"""What the ranks add up in a step: gradients, and the numbers beside them, in one buffer that a learner keeps.

What trains is small (about a million parameters), so one all-reduce of one flat buffer a step is all that is needed, with no
wrapper around the model. A buffer of more than a segment is added up segment by segment: those whose gradients are ready are
on their way while the rest of the backward pass is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch.distributed as dist
from torch import Tensor, nn

from fastlift.training.distributed import Vote, World

# 100 Gb/s carry this much twice, as a ring does, in 2.7 ms: far more than the start of a collective costs, and what is left
# to wait for after the backward pass is at most about a segment. docs/architecture.md has the arithmetic.
SEGMENT_BYTES = 16 * 2**20
_LOSS, _CORRECT, _VOTES = range(3)  # beside the gradients


class Reducer:
    """Sums over the ranks, in one flat buffer: the gradients in the reverse order of ``parameters``, then three numbers.

    Each parameter's gradient is a view of the buffer. All ranks start the same collectives in the same order, also a rank that
    has no images, and get the same bits. With three ranks and more, the order in which a sum adds their values depends on
    where a segment begins (gloo's ring) or on its size (NCCL), so another ``segment_bytes`` rounds otherwise.

    Args:
        parameters: those whose gradients are added up, of one dtype on one device; the last is the one whose gradient is ready
            first.
        world: two processes or more.
        vote: counts those that ask to stop.
        segment_bytes: of a part that is added up by itself, at least.

    Attributes:
        gradients: all of them as one tensor, with some zeros between.
        stopping: whether any rank has asked to stop, as the newest answer of ``vote`` has it.

    Raises:
        ValueError: no parameters, or of several dtypes.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], world: World, vote: Vote, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._parameters = list(parameters)[::-1]
        if len({(parameter.dtype, parameter.device) for parameter in self._parameters}) != 1:
            raise ValueError("gradients are added up in one buffer: of one dtype, on one device")
        self._world, self._vote = world, vote
        self.stopping = False
        # Kernels over many tensors read 16 bytes at once where they can.
        align = 16 // self._parameters[0].element_size()
        sizes = [-(-parameter.numel() // align) * align for parameter in self._parameters]
        self._flat = self._parameters[0].new_zeros(sum(sizes) + 3)
        self.gradients, self._beside = self._flat.split([sum(sizes), 3])
        views = self.gradients.split(sizes)
        self._views = [v[: p.numel()].view_as(p) for v, p in zip(views, self._parameters, strict=True)]
        self._segments, of_parameter = self._cut(sizes, segment_bytes)
        self._members = [of_parameter.count(number) for number in range(len(self._segments))]
        self._lacking = list(self._members)  # gradients of each segment that this backward pass has yet to make
        self._started: list[dist.Work] = []
        self._is_last_pass = False
        if len(self._segments) > 1:
            for parameter, segment in zip(self._parameters, of_parameter, strict=True):
                parameter.register_post_accumulate_grad_hook(partial(self._is_made, segment))

    def _cut(self, sizes: list[int], segment_bytes: int) -> tuple[list[Tensor], list[int]]:
        """The buffer in segments, the last with the numbers beside the gradients; and the segment of each parameter."""
        least = segment_bytes // self._flat.element_size()
        lengths, of_parameter = [0], []
        for size in sizes:
            if lengths[-1] >= least:
                lengths.append(0)
            lengths[-1] += size
            of_parameter.append(len(lengths) - 1)
        lengths[-1] += len(self._beside)
        return list(self._flat.split(lengths)), of_parameter

    def zero(self) -> None:
        """Before a step: gradients of 0, to which the backward passes add."""
        self._flat.zero_()
        self._is_last_pass, self._started = False, []
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.grad is not view:
                parameter.grad = view

    def last_pass(self) -> None:
        """The backward pass to come is this rank's last one of the step: segments that are ready may leave.

        Not while it is recorded: the collectives come after the record of the backward pass then, in the same order.
        """
        self._is_last_pass, self._lacking = not self._world.collectives.are_recorded, list(self._members)

    def _is_made(self, segment: int, _parameter: Tensor) -> None:
        """A gradient has been added to: start the segments that are ready, in order; the last one is ``add_up``'s."""
        if not self._is_last_pass:
            return
        self._lacking[segment] -= 1
        while len(self._started) < len(self._segments) - 1 and not self._lacking[len(self._started)]:
            self._world.collectives(self._start_next)

    def _start_next(self) -> None:
        work = dist.all_reduce(self._segments[len(self._started)], async_op=True)
        assert work is not None
        self._started.append(work)

    def add_up(self, loss: Tensor, correct: Tensor, stop: Callable[[], bool]) -> tuple[Tensor, Tensor]:
        """Replace the gradients by their sums over the ranks; gives the sums of ``loss`` and ``correct``, scalars.

        Args:
            stop: asked whether this rank asks to stop.
        """
        self._beside[_LOSS].copy_(loss)
        self._beside[_CORRECT].copy_(correct)
        self._world.collectives(partial(self._exchange, stop))
        return self._beside[_LOSS], self._beside[_CORRECT]

    def _exchange(self, stop: Callable[[], bool]) -> None:
        self._beside[_VOTES].fill_(float(stop()))
        while len(self._started) < len(self._segments):
            self._start_next()
        for work in self._started:
            work.wait()
        self._started = []
        self.stopping = self._vote.count(self._beside[_VOTES])
