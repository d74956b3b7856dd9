"""Names that models have elsewhere, and what fastlift calls them: for a message, so that a run has one name for a model."""

from __future__ import annotations

import re
from collections.abc import Callable

_SIZES = {"s": "small", "b": "base", "l": "large", "base": "B", "large": "L", "so400m": "SO400M"}
# Repositories of transformers' models on the hub, whose weights timm or open_clip have as well.
_REPOSITORIES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"openai/clip-vit-base-patch(16|32)", lambda m: f"--model ViT-B-{m[1]}"),
    (r"openai/clip-vit-large-patch14(-336)?", lambda m: f"--model ViT-L-14{m[1] or ''}"),
    (
        r"google/vit-(base|large)-patch(16|32)-(224|384)(-in21k)?",
        lambda m: f"--model timm:vit_{m[1]}_patch{m[2]}_{m[3]}.augreg_in21k{'' if m[4] else '_ft_in1k'}",
    ),
    (
        r"facebook/dinov2-(with-registers-)?(small|base|large)",
        lambda m: f"--model timm:vit_{m[2]}_patch14_{'reg4_' if m[1] else ''}dinov2.lvd142m",
    ),
    (
        r"google/siglip(2?)-(base|large|so400m)-patch(14|16|32)-(224|256|384|512)",
        lambda m: (
            f"--model ViT-{_SIZES[m[2]]}-{m[3]}-SigLIP{m[1]}{'' if m[4] == '224' else f'-{m[4]}'} --pretrained webli"
        ),
    ),
    (
        r"facebook/dinov3-vit([sbl])16-pretrain-lvd1689m",
        lambda m: f"--model timm:vit_{_SIZES[m[1]]}_patch16_dinov3.lvd1689m",
    ),
)


def right_name(name: str) -> str | None:
    """The flags of fastlift for a model that has another name elsewhere; None for one that is none.

    Known are timm's names without ``timm:``, repositories of the hub (``openai/clip-vit-base-patch16``, with or without
    ``hf-hub:``), and OpenAI's own way of writing (``ViT-B/16``).
    """
    import open_clip

    bare = re.sub(r"^(https://[^/]+/|hf[-_]hub:|hf://)", "", name).rstrip("/")
    written = re.sub("[/@]", "-", bare.lower()).removesuffix("px")
    for own in open_clip.list_models():
        if own.lower() == written:
            return f"--model {own}"
    for pattern, flags in _REPOSITORIES:
        if found := re.fullmatch(pattern, bare):
            return flags(found)
    return _of_open_clip(bare) or _of_timm(bare.removeprefix("timm/"))


def _of_open_clip(repository: str) -> str | None:
    """By the repository of a tag's weights."""
    import open_clip

    for model, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(model, tag) or {}
        if "/" in repository and config.get("hf_hub", "").rsplit("/", 1)[0] == repository:
            return f"--model {model} --pretrained {tag}"
    return None


def _of_timm(name: str) -> str | None:
    import timm

    return f"--model timm:{name}" if name.split(".")[0] in timm.list_models() else None
