"""Other libraries' transformer blocks, with the norm before the MLP and the adapter in one op.

A block stays the object it was, with its parts, names and hooks; only its class changes, to a subclass of its own
class whose ``forward`` runs the same two halves around the fused op. docs/drop_in.md says why this and not a wrapper.

Legend: B images, L tokens, D width. t is the residual stream after attention, [B, L, D] or [L, B, D].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.interop.adapters.families import Family, family_of
from fastlift.interop.adapters.sites import release
from fastlift.models.tuners.adapter import Adapter, AdaptFormer

# The submodule that an adapted block has more than before.
SLOT = "fastlift_adapter"


def own_class(block: nn.Module) -> type[nn.Module]:
    """The class that its library gave a block, behind what adapters and FSDP2's ``fully_shard`` made of it."""
    kind = type(block)
    if kind.__bases__[0].__name__ == "FSDPModule":
        kind = kind.__bases__[1]
    return kind.original if issubclass(kind, AdaptedBlock) else kind


class AdaptedBlock(nn.Module):
    """What ``adapted_class`` puts before a block's own class: the same block with an adapter."""

    original: type[nn.Module]
    family: Family

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        adapter: AdaptFormer | Adapter = getattr(self, SLOT)
        t = self.family.attention(self, *args, **kwargs)
        norm = getattr(self, self.family.norm)
        if isinstance(adapter, AdaptFormer):
            normed, residual = adapter.beside(t, norm)
            return residual + self.family.mlp(self, normed)
        return t + adapter(self.family.mlp(self, norm(t)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so copies and pickles name the class that it was made from.
        return _blank, (self.original,), self.__dict__


_CLASSES: dict[type[nn.Module], type[AdaptedBlock]] = {}


def adapted_class(original: type[nn.Module]) -> type[AdaptedBlock]:
    """The subclass of a known block class that runs an adapter; one for each class."""
    if original not in _CLASSES:
        names = {"original": original, "family": family_of(original), "__module__": __name__}
        _CLASSES[original] = type(f"Adapted{original.__name__}", (AdaptedBlock, original), names)
    return _CLASSES[original]


def _blank(original: type[nn.Module]) -> nn.Module:
    kind = adapted_class(original)
    return kind.__new__(kind)


def adapt(block: nn.Module, adapter: AdaptFormer | Adapter) -> None:
    """Put an adapter into a block of a known family."""
    block.__class__ = adapted_class(type(block))
    setattr(block, SLOT, adapter)


class FusedQuickGELU(nn.Module):
    """x * sigmoid(1.702 x) in one pass; keeps the module that it stands for, out of sight of the state dict."""

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__["replaced"] = replaced  # not registered: it has no weights, and no name in the model

    def forward(self, x: Tensor) -> Tensor:
        return kernels.quick_gelu(x)


def fuse_activation(block: nn.Module, family: Family) -> None:
    """Replace the MLP's QuickGELU by the fused one. PyTorch's own GELU is one pass already and stays."""
    place, name = _activation_place(block, family)
    module = getattr(place, name, None)
    if isinstance(module, nn.Module) and type(module).__name__ in ("QuickGELU", "QuickGELUActivation"):
        setattr(place, name, FusedQuickGELU(module))


def restore(block: nn.Module, family: Family) -> None:
    """Make the block what it was: its activation's own module, and no adapter."""
    place, name = _activation_place(block, family)
    module = getattr(place, name, None)
    if isinstance(module, FusedQuickGELU):
        setattr(place, name, module.__dict__["replaced"])
    release(block)
    if hasattr(block, SLOT):
        delattr(block, SLOT)
    if isinstance(block, AdaptedBlock):
        cast(Any, block).__class__ = block.original


def _activation_place(block: nn.Module, family: Family) -> tuple[nn.Module, str]:
    path, _, name = family.activation.rpartition(".")
    return block.get_submodule(path), name


def check_block(block: nn.Module, family: Family, where: str) -> int:
    """The width D of a block whose norm the op can compute."""
    norm = getattr(block, family.norm, None)
    if not isinstance(norm, nn.LayerNorm):
        raise UserError(
            f"{where} has no LayerNorm before its MLP: looked for {family.norm}, found {type(norm).__name__}; "
            "adapters need blocks that compute x + MLP(LayerNorm(x))"
        )
    if norm.weight is None or norm.bias is None or len(norm.normalized_shape) != 1:
        raise UserError(f"{where}.{family.norm}: expected a LayerNorm over the last dimension with weight and bias")
    width = norm.normalized_shape[0]
    if width % 8:
        raise UserError(f"{where}: the width must be a multiple of 8, got {width}")
    return width


@torch.no_grad()
def check_halves(block: nn.Module, family: Family, where: str) -> None:
    """Run the block as its library does and as ``AdaptedBlock`` will, on a few random tokens.

    Another version of the library may have put something else into its block: then this says so, instead of training
    a model that is not the one that was pre-trained.

    Raises:
        UserError: the two differ, or the block cannot be called with tokens alone.
    """
    norm = getattr(block, family.norm)
    if norm.weight.is_meta:
        return
    training = {module: module.training for module in block.modules()}
    block.eval()
    try:
        given, more = probe(block, family)
        x = given[0]
        wanted = type(block).forward(block, *given, **more)
        t = family.attention(block, *given, **more)
        got = t + family.mlp(block, norm(t))
    except Exception as error:  # whatever the other library raises: it is not the block that we know
        raise UserError(
            f"{where}: this version's {type(block).__name__} cannot be called as expected "
            f"({type(error).__name__}: {str(error)[:200]}); see docs/drop_in.md for the versions that are known"
        ) from error
    finally:
        for module, was in training.items():
            module.training = was
    tolerance = 1e-5 if x.dtype in (torch.float32, torch.float64) else 5e-2
    same = isinstance(wanted, Tensor) and torch.allclose(wanted.float(), got.float(), rtol=tolerance, atol=tolerance)
    if not same:
        raise UserError(
            f"{where}: this version's {type(block).__name__} computes something else than "
            f"t = x + attention(norm(x)), t + MLP({family.norm}(t)); see docs/drop_in.md for the versions that are known"
        )


def check_reached(block: nn.Module, family: Family, tuner: str) -> None:
    """Raise UserError where a tuner has no part in what its block computes: the block goes past a product that it holds."""
    if getattr(block, family.norm).weight.is_meta or not list(getattr(block, SLOT).parameters()):
        return
    given, more = probe(block, family)
    names, parameters = zip(*getattr(block, SLOT).named_parameters(), strict=True)
    with torch.enable_grad():
        gradients = torch.autograd.grad(block(*given, **more).float().square().sum(), parameters, allow_unused=True)
    if idle := [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]:
        raise UserError(
            f"tuner {tuner}: this version's {own_class(block).__name__} does not call the modules that it would act on "
            f"({', '.join(idle)}), so it cannot be added"
        )


def probe(block: nn.Module, family: Family) -> tuple[list[Any], dict[str, Any]]:
    """Arguments that a block can be called with on its own: random tokens first."""
    norm = getattr(block, family.norm)
    tokens, more = family.probe(block)
    x = torch.randn(1, tokens, norm.weight.shape[0], generator=torch.Generator().manual_seed(0)).to(norm.weight)
    mask = [None] * (_required(type(block).forward) - 2)  # which some require and some do not take
    return [x, *mask], more


def _required(forward: Callable[..., Any]) -> int:
    """Number of arguments, the block's own self among them, that a call cannot do without; at least that and the tokens."""
    parameters = inspect.signature(forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)
    return max(2, needed)
