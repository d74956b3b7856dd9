"""Tuners at the products and norms of other libraries' blocks: LoRA, and scale and shift (SSF).

As with blocks, a product or a norm stays the object it was, with its weights and their names; only its class changes. The
tuner's own parameters are registered once, in the block's slot; sites refer to them.

Where a library calls the product, its output is changed. Where it takes the weight instead (PyTorch's MultiheadAttention, EVA's
attention with biases of its own), the weight is: the same mathematics, with the gradient of a whole weight in backward.

Legend: D width, M width of the MLP, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.models.tuners.lora import LoRA
from fastlift.models.tuners.ssf import SSF


@dataclass
class LowRank:
    """Updates of parts of a product's outputs, x -> x A B / r each; None where a part has none."""

    parts: tuple[LoRA | None, ...]

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """y [.., outputs] of x [.., inputs], with the updates."""
        if len(self.parts) == 1 and self.parts[0] is not None:
            return y + self.parts[0](x)
        rest = y.new_zeros(()).expand(*y.shape[:-1], y.shape[-1] // len(self.parts))
        return y + torch.cat([rest if part is None else part(x) for part in self.parts], dim=-1)

    def weight(self, weight: Tensor) -> Tensor:
        """The weight [outputs, inputs] with the updates."""
        rest = weight.new_zeros(()).expand(weight.shape[0] // len(self.parts), weight.shape[1])
        updates = [
            rest if part is None else (part.lora_A @ part.lora_B / part.lora_A.shape[1]).T for part in self.parts
        ]
        return weight + torch.cat(updates).to(weight.dtype)

    def bias(self, bias: Tensor) -> Tensor:
        """The bias as it is."""
        return bias


@dataclass
class ScaleAndShift:
    """y * scale + shift, of the channels from ``first`` on."""

    ssf: SSF
    first: int = 0

    def _of(self, y: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        rows = slice(self.first, self.first + channels)
        return self.ssf.scale[rows].to(y.dtype), self.ssf.shift[rows].to(y.dtype)

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        """y [.., channels] scaled and shifted."""
        scale, shift = self._of(y, y.shape[-1])
        return torch.addcmul(shift, y, scale)

    def weight(self, weight: Tensor) -> Tensor:
        """The weight [channels, inputs] of the scaled output."""
        return weight * self._of(weight, weight.shape[0])[0][:, None]

    def bias(self, bias: Tensor) -> Tensor:
        """The bias [channels] of the scaled and shifted output."""
        scale, shift = self._of(bias, bias.shape[0])
        return torch.addcmul(shift, bias, scale)


Act = LowRank | ScaleAndShift


class Acted(nn.Module):
    """What ``_act`` puts before a module's own class: one of the kinds below."""

    kind: type[Acted]
    original: type[nn.Module]
    fastlift_act: Act

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so copies and pickles name the two that it was made from.
        return _blank, (self.kind, self.original), self.__dict__


class ActedOutput(Acted):
    """The same module with its output changed."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fastlift_act.output(x, self.original.forward(self, x))


def _acted(name: str, change: Callable[[Act, Tensor], Tensor]) -> property:
    def value(self: Any) -> Tensor | None:
        own = self._parameters[name]
        return None if own is None else change(self.fastlift_act, own)

    return property(value)


class ActedWeight(Acted):
    """A module whose weight others take: they see a changed one, the state dict the module's own."""

    weight = _acted("weight", lambda act, own: act.weight(own))
    bias = _acted("bias", lambda act, own: act.bias(own))


class ActedPacked(Acted):
    """As ``ActedWeight``, for PyTorch's MultiheadAttention: its packed weight of queries, keys and values."""

    in_proj_weight = _acted("in_proj_weight", lambda act, own: act.weight(own))
    in_proj_bias = _acted("in_proj_bias", lambda act, own: act.bias(own))


_CLASSES: dict[tuple[type[Acted], type[nn.Module]], type[Acted]] = {}


def _class_of(kind: type[Acted], original: type[nn.Module]) -> type[Acted]:
    if (kind, original) not in _CLASSES:
        names = {"kind": kind, "original": original, "__module__": __name__}
        _CLASSES[kind, original] = type(f"{kind.__name__}{original.__name__}", (kind, original), names)
    return _CLASSES[kind, original]


def _blank(kind: type[Acted], original: type[nn.Module]) -> nn.Module:
    made = _class_of(kind, original)
    return made.__new__(made)


def _act(module: nn.Module, act: Act, kind: type[Acted]) -> None:
    cast(Any, module).__class__ = _class_of(kind, type(module))
    cast(Any, module).fastlift_act = act


def release(block: nn.Module) -> None:
    """Give all sites below a block their own class back."""
    for module in block.modules():
        if isinstance(module, Acted):
            del cast(Any, module).fastlift_act
            cast(Any, module).__class__ = module.original


@dataclass(frozen=True)
class Sites:
    """Where a block's products and norms are, as paths below it."""

    qkv: tuple[str, ...]  # one packed product or MultiheadAttention, or three products
    out: str
    mlp: tuple[str, str]
    norms: tuple[str, str]


def linear_at(block: nn.Module, path: str, tuner: str) -> nn.Linear:
    """The product at a path below a block; UserError where there is none."""
    found = part_at(block, path)
    if not isinstance(found, nn.Linear):
        owner = path.rpartition(".")[0]
        raise UserError(
            f"tuner {tuner}: {type(block).__name__} has no Linear at {path}; its {owner} is a {type(part_at(block, owner)).__name__}"
        )
    return found


def part_at(block: nn.Module, path: str) -> Any:
    """What is at a path below a block, or None."""
    found: Any = block
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def takes_weight(block: nn.Module, path: str) -> bool:
    """EVA's attention adds biases of its own to the packed product, whose weight it takes."""
    owner = part_at(block, path.rpartition(".")[0]) if "." in path else block
    return getattr(owner, "q_bias", None) is not None


def queries_keys_values(block: nn.Module, sites: Sites, tuner: str) -> list[nn.Module]:
    """The product or products of queries, keys and values: one of [3D, D] or three, as attention has them."""
    paths = sites.qkv
    if len(paths) == 1 and part_at(block, paths[0]) is None:
        paths = _apart(paths[0].rpartition(".")[0])
    if isinstance(found := part_at(block, paths[0]), nn.MultiheadAttention):
        if found.in_proj_weight is None:
            raise UserError(f"tuner {tuner}: {paths[0]} of {type(block).__name__} has keys of another width")
        return [found]
    return [linear_at(block, path, tuner) for path in paths]


def reached(block: nn.Module, sites: Sites, tuner: str) -> Sites:
    """The sites by the names that a block has, for programs that put their own modules around products.

    Raises:
        UserError: attention that takes the weight and does not call the product.
    """
    owner = sites.qkv[0].rpartition(".")[0]
    if tuner == "lora" and (not owner or takes_weight(block, sites.qkv[0])):
        raise UserError(
            f"the attention of {type(block).__name__} takes weights and does not call its products, so PEFT's LoRA would have "
            "no effect there"
        )
    if len(sites.qkv) == 1 and part_at(block, sites.qkv[0]) is None:
        return replace(sites, qkv=_apart(owner))
    return sites


def _apart(owner: str) -> tuple[str, ...]:
    return tuple(f"{owner}.{part}_proj" for part in "qkv")


def attach_lora(block: nn.Module, sites: Sites, rank: int, generator: torch.Generator | None) -> nn.Module:
    """LoRA on queries and values."""
    found = queries_keys_values(block, sites, "lora")
    first: Any = found[0]
    width = first.embed_dim if isinstance(first, nn.MultiheadAttention) else first.in_features
    outputs = width if len(found) == 1 else first.out_features
    q, v = (LoRA(width, rank, outputs, generator) for _ in range(2))
    if len(found) == 3:
        _act(found[0], LowRank((q,)), ActedOutput)
        _act(found[2], LowRank((v,)), ActedOutput)
    elif isinstance(first, nn.MultiheadAttention):
        _act(first, LowRank((q, None, v)), ActedPacked)
    else:
        if first.out_features != 3 * width:
            raise UserError(
                f"tuner lora: {sites.qkv[0]} of {type(block).__name__} has {first.out_features} outputs and not three times "
                f"{width}, so queries and values cannot be told apart"
            )
        _act(first, LowRank((q, None, v)), ActedWeight if takes_weight(block, sites.qkv[0]) else ActedOutput)
    return nn.ModuleDict({"q": q, "v": v})


def attach_lora_mlp(block: nn.Module, sites: Sites, rank: int, generator: torch.Generator | None) -> nn.Module:
    """LoRA on both products of the MLP."""
    parts = nn.ModuleDict()
    for name, path in zip(("1", "2"), sites.mlp, strict=True):
        product = linear_at(block, path, "lora_mlp")
        parts[name] = lora = LoRA(product.in_features, rank, product.out_features, generator)
        _act(product, LowRank((lora,)), ActedOutput)
    return parts


def attach_ssf_attn(block: nn.Module, sites: Sites, rank: int, generator: torch.Generator | None) -> nn.Module:
    """Scale and shift of queries, keys and values, and of the attention's output product."""
    found = queries_keys_values(block, sites, "ssf_attn")
    out = linear_at(block, sites.out, "ssf_attn")
    first: Any = found[0]
    outputs = first.in_proj_weight.shape[0] if isinstance(first, nn.MultiheadAttention) else first.out_features
    inside, outside = SSF(outputs * (3 if len(found) == 3 else 1), generator), SSF(out.out_features, generator)
    if isinstance(first, nn.MultiheadAttention):
        if first.in_proj_bias is None or out.bias is None:
            raise UserError(f"tuner ssf_attn: the attention of {type(block).__name__} has no biases to shift")
        _act(first, ScaleAndShift(inside), ActedPacked)
        _act(out, ScaleAndShift(outside), ActedWeight)  # which MultiheadAttention does not call
        return nn.ModuleDict({"attn_in": inside, "attn_out": outside})
    if len(found) == 1 and takes_weight(block, sites.qkv[0]):
        raise UserError(
            f"tuner ssf_attn: the attention of {type(block).__name__} adds biases to its packed product by itself, so the "
            "output of the product cannot be shifted"
        )
    for place, product in enumerate(found):
        _act(product, ScaleAndShift(inside, place * outputs), ActedOutput)
    _act(out, ScaleAndShift(outside), ActedOutput)
    return nn.ModuleDict({"attn_in": inside, "attn_out": outside})


def attach_ssf_mlp(block: nn.Module, sites: Sites, rank: int, generator: torch.Generator | None) -> nn.Module:
    """Scale and shift of both products of the MLP."""
    parts = nn.ModuleDict()
    for name, path in zip(("mlp_in", "mlp_out"), sites.mlp, strict=True):
        product = linear_at(block, path, "ssf_mlp")
        parts[name] = ssf = SSF(product.out_features, generator)
        _act(product, ScaleAndShift(ssf), ActedOutput)
    return parts


def attach_ssf_ln(block: nn.Module, sites: Sites, rank: int, generator: torch.Generator | None) -> nn.Module:
    """Scale and shift of both norms' outputs."""
    parts = nn.ModuleDict()
    for name, path in zip(("ln_1", "ln_2"), sites.norms, strict=True):
        norm = part_at(block, path)
        parts[name] = ssf = SSF(norm.normalized_shape[0], generator)
        _act(norm, ScaleAndShift(ssf), ActedOutput)
    return parts


# Tuner -> what puts it at the sites of a block, and gives what holds its parameters, by LIFT's names.
AT_SITES: dict[str, Callable[[nn.Module, Sites, int, torch.Generator | None], nn.Module]] = {
    "lora": attach_lora,
    "lora_mlp": attach_lora_mlp,
    "ssf_attn": attach_ssf_attn,
    "ssf_mlp": attach_ssf_mlp,
    "ssf_ln": attach_ssf_ln,
}
WITH_RANK = ("adaptformer", "adapter", "lora", "lora_mlp")
# Tuners of fastlift's own models that cannot be added to others, each with the reason.
NOT_HERE = {
    "full": "trains all weights of the blocks, which is a model and no adapter: unfreeze them with requires_grad_(True), and "
    "save the model",
    "mask": "replaces entries of the weights through a parametrisation, which would rename them in the model's state dict",
    **dict.fromkeys(
        ("vpt_shallow", "vpt_deep"),
        "adds tokens, and other libraries' pooling, masks and rotary positions count on the tokens that they made",
    ),
    "none": "is no adapter",
}
