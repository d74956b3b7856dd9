"""The public attention: checks, then the implementation that is asked for."""

import torch

from ..checks import check_once
from ..dispatch import choose, is_plain
from ..registration import needs_gradients
from .arguments import AttentionArguments, AttentionImpl, check, check_angles_are_constants
from .configuration import check_fits
from .library import attention_library
from .reference import attention_reference
from .registered import attention_forward


def attention(
    qkv: torch.Tensor,
    heads: int,
    q: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    first: int = 0,
    *,
    causal: bool = False,
    impl: AttentionImpl | None = None,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D/H)) v of every head, from the packed result of one product to the input of the next.

    Args:
        qkv: [B, L, 3D], queries, keys and values side by side, each with its H heads side by side; or keys and values alone,
            [B, L, 2D], where ``q`` is given. float32, bfloat16, float16 or float64.
        heads: H, which divides D.
        q: [B, Q, D], the queries of the first Q tokens, of the dtype of ``qkv``.
        sin: [patches, D/H], with ``cos`` the angles of rotary positions, or None: tokens from ``first`` on have their queries
            and keys turned by them, in float32.
        cos: as ``sin``.
        first: tokens without a place, before the patches.
        causal: a token sees itself and the tokens before it.
        impl: None (PyTorch's own op), "triton" (kernels for short sequences, see :func:`attention_tokens`), or "reference".

    Returns:
        [B, L, D], or [B, Q, D] where ``q`` is given, in the dtype of ``qkv``.

    Raises:
        TypeError, ValueError: arguments that are not those of one call, or that the kernels asked for do not take.
        RuntimeError: the kernels asked for are not available here, or the call is inside a torch.func transform.

    Source: Vaswani et al. 2017; rotary positions: Su et al. 2021, in DINOv3's axial form.
    """
    a = AttentionArguments(qkv, q, sin, cos, heads, first, causal)
    plain = check_once(check, a)
    if impl is None or is_plain():
        return attention_library(a)
    if impl == "reference":
        return attention_reference(a)
    if impl != "triton":
        raise ValueError(f'impl: expected None, "reference" or "triton", got {impl!r}')
    if not torch.compiler.is_compiling():  # the op itself checks when it runs
        choose(impl, "qkv", qkv)
        check_once(check_fits, a)
    check_angles_are_constants(a)
    keep = needs_gradients((qkv, q))
    return attention_forward.call((*a, keep), plain, keep)[0]
