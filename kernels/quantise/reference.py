"""The definition of row-wise quantisation in plain PyTorch."""

import torch
import torch.nn.functional as F

LARGEST = 448.0  # of e4m3
SMALLEST = 1e-12  # a row of zeros must not be divided by zero
READ_AHEAD = 256  # rows whose scales the scaled product may read together, there or not (pytorch#133334)


def quantise_rows_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x / scale in e4m3 [N, D], scale [N, 1] in float32), scale = max |row| / 448."""
    wide = x.float()
    # Not divided by it: on a GPU PyTorch multiplies by the reciprocal of a number, on a CPU it divides.
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) * (1.0 / LARGEST)
    rows = len(x)
    return (wide / scale).to(torch.float8_e4m3fn), F.pad(scale, (0, 0, 0, -rows % READ_AHEAD), value=1.0)[:rows]
