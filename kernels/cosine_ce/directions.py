"""Vectors divided by their length, and what that does to a gradient."""

import torch

NORM_FLOOR = 1e-12  # of torch.nn.functional.normalize


def inverse_norm(x: torch.Tensor) -> torch.Tensor:
    """1 / max(|x|, 1e-12) of each row of ``x`` [rows, D]: [rows, 1]."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(NORM_FLOOR).reciprocal_()


def off_direction(d_x: torch.Tensor, x: torch.Tensor, inverse_square: torch.Tensor | None) -> None:
    """In place: take out of each row of ``d_x`` its part along the row of ``x``, whose 1 / |x|^2 is given (None: 1)."""
    along = torch.bmm(d_x.unsqueeze(1), x.unsqueeze(2)).squeeze(2)  # [rows, 1] without a temporary of the size of x
    if inverse_square is not None:
        along *= inverse_square
    d_x.addcmul_(x, along, value=-1.0)
