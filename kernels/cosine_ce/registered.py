"""The classifier-with-loss op as PyTorch sees it: schemas, shapes, autograd, FLOPs, and which implementation runs."""

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from ..registration import implementation, module_of, refuse_double_backward, register, register_autograd
from .arguments import check, check_constants, check_kept_for_backward

_PACKAGE = str(__package__)

# B batch, D width, C classes

_ARGUMENTS = (
    "Tensor features, Tensor weight, Tensor labels, Tensor? log_prior, Tensor? bias, Tensor? class_weight, float scale, "
    "float tau, float label_smoothing, str normalize, bool need_features, bool need_weight, bool need_bias, str impl"
)
# What is saved are the three gradients for a loss gradient of 1, taken while a chunk of logits is at hand.
_FORWARD = f"({_ARGUMENTS}) -> (Tensor loss, Tensor predictions, Tensor saved_0, Tensor saved_1, Tensor saved_2)"
_BACKWARD = (
    f"(Tensor d_loss, Tensor saved_0, Tensor saved_1, Tensor saved_2, {_ARGUMENTS})"
    " -> (Tensor d_features, Tensor d_weight, Tensor d_bias)"
)


def _forward(*args: Any) -> tuple[torch.Tensor, ...]:
    *constants, impl = args[6:]
    check_constants(log_prior=args[3], class_weight=args[5])  # whether they require gradients is no part of their kind
    return module_of(_PACKAGE, impl).forward(*_contiguous(args[:6]), *constants)


def _check(*args: Any) -> None:
    check(*args[:10])
    implementation(_PACKAGE, args[-1], "features", args[0])


def _backward(d_loss: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    return module_of(_PACKAGE, args[-1]).backward(d_loss, [x.contiguous() for x in args[:3]])


def _check_backward(d_loss: torch.Tensor, *args: Any) -> None:
    saved, rest = list(args[:3]), args[3:]
    _check(*rest)
    features, weight = rest[:2]
    check_kept_for_backward(d_loss, saved, _gradient_shapes(features, weight, rest[-4:-1]), features)


def _contiguous(tensors: Any) -> list[torch.Tensor | None]:
    """As kernels read them, which know no strides: a column of a table, an expanded number."""
    return [None if x is None else x.contiguous() for x in tensors]


def _gradient_shapes(features: torch.Tensor, weight: torch.Tensor, need: Any) -> list[tuple[int, ...]]:
    shapes = (tuple(features.shape), tuple(weight.shape), tuple(weight.shape[:1]))
    return [shape if wanted else (0,) for shape, wanted in zip(shapes, need, strict=True)]


def _float32(like: torch.Tensor, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    return [like.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _forward_fake(features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *args: Any) -> tuple[Any, ...]:
    predictions = torch.empty_like(labels, memory_format=torch.contiguous_format)
    loss, *saved = _float32(features, [(), *_gradient_shapes(features, weight, args[-4:-1])])
    return (loss, predictions, *saved)


def _backward_fake(_d: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    features, weight, need = args[3], args[4], args[-4:-1]
    return tuple(_float32(features, _gradient_shapes(features, weight, need)))


cosine_cross_entropy_forward = register("cosine_cross_entropy_forward", _FORWARD, _forward, _check, _forward_fake)
cosine_cross_entropy_backward = register(
    "cosine_cross_entropy_backward", _BACKWARD, _backward, _check_backward, _backward_fake
)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, ...]:
        out = cosine_cross_entropy_forward.below_autograd(*args)
        _, predictions, *saved = out
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(predictions, *saved)
        ctx.save_for_backward(*saved, *args[:6])
        ctx.constants = args[6:]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        refuse_double_backward("cosine_cross_entropy_forward")
        if grads[0] is None:
            return (None,) * 14
        need = ctx.constants[4:7]
        gradients = cosine_cross_entropy_backward.below_autograd(grads[0], *ctx.saved_tensors, *ctx.constants)
        features, weight, _, _, bias, _ = ctx.saved_tensors[3:]
        d_features, d_weight, d_bias = (
            d.to(x.dtype) if wanted else None
            for d, x, wanted in zip(gradients, (features, weight, bias), need, strict=True)
        )
        return (d_features, d_weight, None, None, d_bias, *[None] * 9)


register_autograd(cosine_cross_entropy_forward, _CrossEntropy)


@register_flop_formula(torch.ops.fastlift_kernels.cosine_cross_entropy_forward)
def _forward_flops(features: Any, weight: Any, *args: Any, **_: Any) -> int:
    need_features, need_weight = args[-4:-2]
    return (1 + need_features + need_weight) * 2 * features[0] * features[1] * weight[0]


@register_flop_formula(torch.ops.fastlift_kernels.cosine_cross_entropy_backward)
def _backward_flops(*_: Any, **__: Any) -> int:
    return 0
