"""Text features of class names: prompts, the text tower cut to the longest prompt, a cache by content.

A causal text tower never looks past the end-of-text token that its feature is read from, so prompts of 5 to 18 tokens
need not be padded to 77: sorted by length and cut batch by batch the result is the same (to rounding) and several times
cheaper. Towers that see the padding (SigLIP's) are run as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlift.errors import FastliftWarning, UserError
from fastlift.models.backbones.backbone import TextTower
from fastlift.models.classifiers import OF_TEXT
from fastlift.models.text.wordless import warn_of_wordless
from fastlift.settings import Acts, NamesFile, Settings
from fastlift.system import sealed
from fastlift.system.files import cache_folder, read_json

DEFAULT_TEMPLATE = "a photo of a {}."
PROMPTS_A_BATCH = 256
Progress = Callable[[int, int], None]  # (done, total)


def _reads_prompt(classifier: str, init: str, text_tuner: tuple[str, ...], coop_init: str) -> bool:
    if classifier in OF_TEXT:
        return "coop" not in text_tuner or coop_init != "random"
    return init == "text"


@dataclass(frozen=True)
class PromptTextSettings(Settings):
    """The text of which class features are made."""

    prompt: Annotated[
        str,
        NamesFile(prefix="descriptor:"),
        Acts(
            "what class features are made of (init text, or classifier text or zero_shot; CoOp's with coop_init prompt)",
            _reads_prompt,
        ),
    ] = "default"
    """'default' ("a photo of a {}."), 'classname', 'ensemble', 'descriptor:FILE', or a template with {}."""


def prompts_for(class_names: Sequence[str], prompt: str) -> list[list[str]]:
    """The prompts of each class.

    Args:
        class_names: underscores become spaces.
        prompt: "default" ("a photo of a {}."), "classname" (the name alone), "ensemble" (the 80 templates that open_clip
            ships for ImageNet), "descriptor:FILE" (JSON: class name -> list of sentences, where underscores become
            spaces too), or a template with "{}".

    Raises:
        UserError: an unknown kind, a template without "{}", or classes that the descriptor file lacks.
    """
    names = [name.replace("_", " ") for name in class_names]
    if prompt == "ensemble":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [[template(name) for template in OPENAI_IMAGENET_TEMPLATES] for name in names]
    if prompt.startswith("descriptor"):
        return _descriptors(names, prompt)
    template = {"default": DEFAULT_TEMPLATE, "classname": "{}"}.get(prompt, prompt)
    if "{}" not in template:
        raise UserError(
            f"prompt {prompt!r}: expected default, classname, ensemble, descriptor:FILE, or a template with {{}} "
            f"such as {DEFAULT_TEMPLATE!r}"
        )
    return [[template.replace("{}", name)] for name in names]


def _descriptors(names: list[str], prompt: str) -> list[list[str]]:
    path = Path(prompt.removeprefix("descriptor").removeprefix(":"))
    if not prompt.removeprefix("descriptor:") or not path.is_file():
        raise UserError(f"prompt {prompt!r}: expected descriptor:FILE with a JSON file of class name -> sentences")
    table = {str(key).replace("_", " "): value for key, value in read_json(path).items()}
    missing = [name for name in names if not table.get(name)]
    if missing:
        raise UserError(f"{path}: no descriptors for {len(missing)} classes (first: {', '.join(missing[:10])})")
    sentences = [[table[name]] if isinstance(table[name], str) else table[name] for name in names]
    for name, texts in zip(names, sentences, strict=True):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}: expected a sentence or a list of sentences for {name!r}, got {texts!r}")
    return [[text.replace("_", " ") for text in texts] for texts in sentences]


@torch.inference_mode()
def encode_prompts(tower: TextTower, prompts: list[str], progress: Progress | None = None) -> Tensor:
    """L2-normed features [N, E] of prompts, in fp32 on the model's device; batches are cut to their longest prompt."""
    device = next(tower.model.parameters()).device
    tokens = tower.tokenize(prompts)
    text = causal_parts(tower.model)  # a prompt ends at the token its feature is read from, or nothing can be cut
    lengths = torch.full((len(tokens),), tokens.shape[1]) if text is None else end_of_text(text, tokens) + 1
    order = torch.argsort(lengths, stable=True)
    features: list[Tensor] = []
    for done in range(0, len(order), PROMPTS_A_BATCH):
        chosen = order[done : done + PROMPTS_A_BATCH]
        batch = tokens[chosen, : int(lengths[chosen].max())].to(device)
        features.append(F.normalize(encode_tokens(tower.model, batch).float(), dim=1))
        if progress is not None:
            progress(min(done + PROMPTS_A_BATCH, len(order)), len(order))
    result = torch.empty_like(torch.cat(features))
    result[order.to(device)] = torch.cat(features)
    return result


def causal_parts(model: Any) -> Any | None:
    """The module with the causal text transformer's parts, or None where padding takes part in the result."""
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    causal = isinstance(getattr(text, "attn_mask", None), Tensor) and getattr(text, "cls_emb", None) is None
    return text if causal and pool in ("argmax", "eos") else None


def end_of_text(text: Any, tokens: Tensor) -> Tensor:
    """Position of the token that each prompt's feature is read from, [N]."""
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    if pool == "argmax":  # CLIP's end-of-text token has the highest number
        return tokens.argmax(dim=1)
    eos: int = text.eos_id if hasattr(text, "eos_id") else text.text_eos_id
    return torch.eq(tokens, eos).int().argmax(dim=1)


def encode_tokens(model: Any, tokens: Tensor) -> Tensor:
    """Unnormed text features [N, E] of tokens [N, n], where n may be less than the context length."""
    text = causal_parts(model)
    if text is None:
        return model.encode_text(tokens)
    n = tokens.shape[1]
    dtype = text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:n].to(dtype)  # [N, n, W]
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:n, :n]))
    pooled = x[torch.arange(len(x), device=x.device), end_of_text(text, tokens)]
    projection = text.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _cached(path: Path, key: str, classes: int) -> Tensor | None:
    """Features of the cache; None where there are none, or the file is damaged, which is told."""
    if not path.is_file():
        return None
    try:
        tensors, metadata = sealed.read(path)
    except UserError as error:
        warnings.warn(f"{error}; text features are made again", FastliftWarning, stacklevel=3)
        return None
    features = tensors.get("features")
    if metadata.get("key") != key or features is None or len(features) != classes:
        told = f"{path} holds other features than its name says; they are made again"
        warnings.warn(told, FastliftWarning, stacklevel=3)
        return None
    return features


def text_features(
    tower: TextTower,
    class_names: Sequence[str],
    prompt: str = "default",
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Features of each class [C, E] in fp32: the mean of the L2-normed features of its prompts.

    Cached on disk by content (the tower's weights and the prompts), under ``cache`` (default: the cache folder).
    """
    prompts = prompts_for(class_names, prompt)
    if not prompt.startswith("descriptor"):
        warn_of_wordless(class_names)
    key = hashlib.blake2b((tower.fingerprint() + json.dumps(prompts)).encode(), digest_size=16).hexdigest()
    path = (cache or cache_folder()) / "text_features" / f"{key}.safetensors"
    cached = _cached(path, key, len(prompts))
    if cached is not None:
        return cached.to(next(tower.model.parameters()).device)
    encoded = encode_prompts(tower, [text for texts in prompts for text in texts], progress)
    means = encoded  # of one prompt a class, which needs no loop over twenty thousand
    if len(encoded) > len(prompts):
        means = torch.stack([part.mean(dim=0) for part in encoded.split([len(texts) for texts in prompts])])
    if not means.isfinite().all():
        raise UserError("the text features are not finite: the text tower's weights are damaged")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        sealed.write(path, {"features": means.cpu().contiguous()}, {"key": key})
    return means
