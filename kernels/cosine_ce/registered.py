"""The classifier-with-loss op as PyTorch sees it: schema, shapes, autograd, FLOPs, and which implementation runs.

Its gradients, for a loss gradient of 1, are taken in the forward pass, while a chunk of logits is at hand: backward
multiplies them by that of the loss.
"""

from typing import Any

import torch

from ..registration import check_implementation, module_of, register, register_autograd, schema_of
from .arguments import ClassifierArguments, Needed, check, check_constants

_PACKAGE = str(__package__)

# B batch, D width, C classes


def _unflatten(flat: Any) -> tuple[Any, ...]:
    *arguments, need_features, need_weight, need_bias, impl = flat
    return ClassifierArguments(*arguments), Needed(need_features, need_weight, need_bias), impl


def _forward(a: ClassifierArguments, need: Needed, impl: str) -> tuple[torch.Tensor, ...]:
    if a.labels.numel():
        return module_of(_PACKAGE, impl).forward(a, need)
    loss, predictions, *gradients = _fake(a, need, impl)
    return loss.fill_(float("nan")), predictions, *[x.zero_() for x in gradients]


def _check(a: ClassifierArguments, need: Needed, impl: str) -> None:
    check(a)
    check_implementation(impl, "features", a.features)


def _fake(a: ClassifierArguments, need: Needed, impl: str) -> tuple[torch.Tensor, ...]:
    shapes = (a.features.shape, a.weight.shape, a.weight.shape[:1])
    gradients = [
        a.features.new_empty(shape if wanted else (0,), dtype=torch.float32)
        for shape, wanted in zip(shapes, need, strict=True)
    ]
    loss, predictions = a.features.new_empty((), dtype=torch.float32), a.labels.new_empty(a.labels.shape)
    return loss, predictions, *gradients


def _flops(a: Any, need: Needed, impl: str) -> int:
    return (1 + need.features + need.weight) * 2 * a.features[0] * a.features[1] * a.weight[0]


cosine_cross_entropy_forward = register(
    "cosine_cross_entropy_forward",
    f"({schema_of(ClassifierArguments)}, {schema_of(Needed, 'need_')}, str impl)"
    " -> (Tensor loss, Tensor predictions, Tensor d_features, Tensor d_weight, Tensor d_bias)",
    _forward, _check, _fake, _unflatten, _flops,
)  # fmt: skip


def _save(ctx: Any, arguments: tuple[Any, ...], results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    a, ctx.need, _ = _unflatten(arguments)
    check_constants(a)
    _, predictions, *gradients = results
    ctx.save_for_backward(*gradients)
    ctx.dtypes = [None if x is None else x.dtype for x in (a.features, a.weight, a.bias)]
    return (predictions,)


def _differentiate(ctx: Any, d_loss: torch.Tensor, _: None) -> tuple[torch.Tensor | None, ...]:
    gradients = {
        name: (d * d_loss).to(dtype)
        for name, d, dtype, wanted in zip(Needed._fields, ctx.saved_tensors, ctx.dtypes, ctx.need, strict=True)
        if wanted
    }
    constants = len(Needed._fields) + 1  # which gradients are wanted, and the implementation
    return (*map(gradients.get, ClassifierArguments._fields), *[None] * constants)


register_autograd(cosine_cross_entropy_forward, _save, _differentiate, own=2)
