"""The definitions in plain PyTorch: rows in e4m3 with a scale each, of what is there, of a LayerNorm, of an activation."""

import torch
import torch.nn.functional as F

LARGEST = 448.0  # of e4m3
SMALLEST = 1e-12  # a row of zeros must not be divided by zero
READ_AHEAD = 256  # rows whose scales the scaled product may read together, there or not (pytorch#133334)

Rows = tuple[torch.Tensor, torch.Tensor]
"""(x / scale in e4m3 [N, D], scale [N, 1] in float32)."""


def quantise_rows_reference(x: torch.Tensor) -> Rows:
    """scale = max |row| / 448."""
    wide = x.float()
    # Not divided by it: on a GPU PyTorch multiplies by the reciprocal of a number, on a CPU it divides.
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) * (1.0 / LARGEST)
    return (wide / scale).to(torch.float8_e4m3fn), padded(scale)


def layer_norm_quantise_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, ...]:
    """Rows of LN(x), and the mean and 1 / deviation of each row of x, [N, 1] in float32."""
    of = (x.float(), weight.shape, weight.float(), None if bias is None else bias.float(), eps)
    normed, mean, rstd = torch.native_layer_norm(*of)
    return *quantise_rows_reference(normed), mean, rstd


def layer_norm_quantise_backward_reference(
    d_normed: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """d_x = rstd (g - mean(g) - x^ mean(g x^)) of a row, with g = d_normed * weight and x^ = (x - mean) rstd."""
    g, normed = d_normed.float() * weight.float(), (x.float() - mean) * rstd
    along = (g * normed).mean(dim=1, keepdim=True)
    return (rstd * (g - g.mean(dim=1, keepdim=True) - normed * along)).to(x.dtype)


def activation_quantise_reference(pre: torch.Tensor, kind: str) -> Rows:
    """Rows of the activation of ``pre``."""
    wide = pre.float()
    return quantise_rows_reference(wide * torch.sigmoid(1.702 * wide) if kind == "quick_gelu" else F.gelu(wide))


def activation_backward_quantise_reference(d_y: torch.Tensor, pre: torch.Tensor, kind: str) -> Rows:
    """Rows of the activation's gradient."""
    wide, d_y = pre.float(), d_y.float()
    if kind == "gelu":
        return quantise_rows_reference(torch.ops.aten.gelu_backward(d_y, wide))
    s = torch.sigmoid(1.702 * wide)
    return quantise_rows_reference(d_y * (s * (1.0 + 1.702 * wide * (1.0 - s))))


def padded(scale: torch.Tensor) -> torch.Tensor:
    """The same numbers, with ones behind them as far as a product may read."""
    rows = len(scale)
    return F.pad(scale, (0, 0, 0, -rows % READ_AHEAD), value=1.0)[:rows]
