"""DALI's crops as torch's own tensors."""

from collections import deque
from typing import Any

import torch


class Handover:
    """Copies what DALI puts out, in the dtype that is wanted, on the stream that will use it.

    DALI frees memory in the order of its own stream: what lies in the place of a tensor that was let go may be written while
    another stream still reads that tensor. So nobody outside gets DALI's memory, and here it is held until the copy is over.
    On a GPU that takes 0.2 ms for 512 crops, and is the cast to bf16 in any case.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._held: deque[tuple[torch.cuda.Event, Any]] = deque()

    def own(self, output: Any) -> torch.Tensor:
        """A dense list of DALI's as a tensor of torch's on the same device; the list is complete, and the host does not wait."""
        # -1: DALI is not to make a stream wait, which would wait for the batches after this one as well.
        theirs = torch.from_dlpack(output.as_tensor().__dlpack__(stream=-1))
        images = torch.empty(theirs.shape, dtype=self._dtype, device=theirs.device).copy_(theirs)
        if images.is_cuda:  # where a copy may still be going on
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(images.device))
            self._held.append((copied, (output, theirs)))
            while self._held and self._held[0][0].query():
                self._held.popleft()
        return images

    def close(self) -> None:
        """Let go of DALI's memory, once all copies are over."""
        while self._held:
            copied, _ = self._held[0]
            copied.synchronize()
            self._held.popleft()
