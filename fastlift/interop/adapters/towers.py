"""Where the blocks of a vision transformer are, in models that may hold a text tower too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fastlift.errors import UserError
from fastlift.interop.adapters.blocks import check_block, own_class
from fastlift.interop.adapters.families import FAMILIES, REFUSED, Family, family_of, key_of

# Parts of a path that mark the vision tower of a model with two.
_VISION = ("visual", "vision", "image")
# Names of a patch embedding that need be no convolution.
_PATCHES = ("patch_embed", "patch_embedding", "patch_embeddings")


@dataclass(frozen=True)
class Tower:
    """The blocks of a vision tower."""

    path: str  # of the list of blocks inside the model
    blocks: tuple[nn.Module, ...]
    family: Family
    width: int  # D


def find_tower(model: nn.Module) -> Tower:
    """The blocks of the one vision tower of ``model``."""
    lists = _known_lists(model)
    vision = {path: blocks for path, blocks in lists.items() if any(word in path.lower() for word in _VISION)}
    lists = vision or lists
    if not lists:
        raise UserError(_nothing_known(model))
    if len(lists) > 1:
        raise UserError(
            f"{type(model).__name__} has several lists of transformer blocks ({', '.join(lists)}); "
            "pass the one vision tower, such as model.vision_model"
        )
    path, blocks = next(iter(lists.items()))
    if not any(isinstance(part, nn.Conv2d) or name.endswith(_PATCHES) for name, part in model.named_modules()):
        raise UserError(
            f"{type(model).__name__} cuts no image into patches (it has no Conv2d), so {path} is no vision tower"
        )
    family = family_of(own_class(blocks[0]))
    assert family is not None
    widths = {check_block(block, family, f"{path}.{i}") for i, block in enumerate(blocks)}
    if len(widths) > 1:
        raise UserError(f"the blocks of {path} have several widths ({sorted(widths)}): not a plain vision transformer")
    return Tower(path, blocks, family, widths.pop())


def _known_lists(model: nn.Module) -> dict[str, tuple[nn.Module, ...]]:
    """Lists whose members are all blocks of one known class, by path."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module):
            kinds = {own_class(block) for block in module}
            if len(kinds) == 1 and family_of(kinds.pop()) is not None:
                found[path] = tuple(module)
    return found


def _nothing_known(model: nn.Module) -> str:
    known = ", ".join(f"{package}'s {name}" for name, package in FAMILIES)
    lists = (module for module in model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential)))
    kinds = {type(parts[0]) for parts in lists if len(parts) > 1}
    refused = {kind.__name__: REFUSED[key_of(kind)] for kind in kinds if key_of(kind) in REFUSED}
    if refused:
        told = "; ".join(f"in {name}, {reason}" for name, reason in refused.items())
        return f"{type(model).__name__} cannot have adapters: {told}"
    seen = sorted({f"{kind.__module__.split('.')[0]}'s {kind.__name__}" for kind in kinds})
    if type(model).__module__.startswith("fastlift."):
        return f"{type(model).__name__} is fastlift's own: choose its tuner with fastlift.create_model(tuner=...)"
    return (
        f"{type(model).__name__} has no transformer blocks that are known here. Looked for a list of one of: {known}; "
        f"all are pre-norm: x + MLP(LayerNorm(x)). Found lists of: {', '.join(seen) or 'nothing'}"
    )
