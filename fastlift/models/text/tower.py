"""The text tower as part of the model: class prompts -> class features, with the same sites for tuners as the ViT.

A frozen text tower needs to run once (``text.py``); here it runs in every step, because a prompt's context or a tuner
inside it learns. It is bound to one set of class prompts: only their tokens, cut to the longest, are kept.

Legend: C classes, L tokens of the longest prompt, M context tokens, W text width, E joint space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastlift.errors import UserError
from fastlift.models.backbones.backbone import TextTower
from fastlift.models.conversion import norm, text_blocks
from fastlift.models.text.features import causal_parts, end_of_text
from fastlift.models.vit import PromptSite, Tower

# Prompts at a time; larger sets are computed again in backward, part by part, so that memory stays bounded.
CHUNK = 1024
PROMPT_STD = 0.02  # of random initial values in the token space (CoOp)
CoopPosition = Literal["front", "middle", "end"]


@dataclass(frozen=True)
class Context:
    """Which words of a template learn: ``left`` at its beginning and ``right`` at its end, M in all.

    They start from the template's own words where it ``is_worded``; else at random, and the full stop stays as it is.
    """

    template: str
    left: int
    right: int
    is_worded: bool


def random_context(length: int, position: CoopPosition) -> Context:
    """CoOp's context of ``length`` placeholder words with the class name at the front, in the middle, or at the end."""
    left = {"front": 0, "middle": length // 2, "end": length}[position]
    template = "X " * left + "{}" + " X" * (length - left) + "."
    return Context(template, left, length - left, is_worded=False)


def worded_context(tower: TextTower, template: str) -> Context:
    """A context that starts from all words of a template around the class name, its full stop included."""
    before, after = template.split("{}", 1)
    left, right = (_words(tower, part) for part in (before, after))
    if not left + right:
        raise UserError(f"coop_init prompt: the prompt {template!r} has no words around the class name to start from")
    return Context(template, left, right, is_worded=True)


def _words(tower: TextTower, text: str) -> int:
    if not text.strip():
        return 0
    tokens = tower.tokenize([text])
    return int(end_of_text(causal_parts(tower.model), tokens)[0]) - 1  # without the start token


def causal_projection(tower: TextTower) -> Tensor:
    """From the text width to the joint space, [W, E]."""
    text: Any = causal_parts(tower.model)
    projection = None if text is None else text.text_projection
    if isinstance(projection, nn.Linear) and projection.bias is None:
        return projection.weight.detach().T
    if not isinstance(projection, Tensor):
        raise UserError(
            "this model's text tower has no plain projection to the joint space, so it can only stay frozen"
        )
    return projection.detach()


class TextTransformer(Tower):
    """Class prompts -> features [C, W] of their end-of-text tokens, after the last norm.

    Args:
        tower: an open_clip model with a causal text tower.
        prompts: one for each class.
        context: which of their words are replaced by learned ones, or None.
        generator: source of the learned words' random start.

    Raises:
        UserError: the tower is not causal, or is another library's; prompts without room for the learned words, or whose
            words are not the same in all where they are to start from them.
    """

    def __init__(
        self,
        tower: TextTower,
        prompts: list[str],
        context: Context | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        text = causal_parts(tower.model)
        if text is None:
            raise UserError("this model's text tower is not a causal CLIP text transformer, so it can only stay frozen")
        parts: Any = text
        width = parts.token_embedding.weight.shape[1]
        super().__init__(text_blocks(parts.transformer), width)
        tokens = tower.tokenize(prompts)
        ends = end_of_text(text, tokens)
        self.length = int(ends.max()) + 1
        used, index = tokens[:, : self.length].unique(return_inverse=True)
        words = parts.token_embedding.weight.detach()[used].float()
        self.register_buffer("words", words)  # [distinct tokens, W]
        self.register_buffer("index", index)  # [C, L] rows of words
        self.register_buffer("ends", ends)  # [C]
        self.positions = nn.Parameter(parts.positional_embedding.detach()[: self.length].clone())
        self.norm = norm(parts.ln_final)
        self.context: nn.Parameter | None = None
        self.requires_grad_(False)
        if context is not None:
            _check_room(prompts, tokens, ends)
            self.register_buffer("places", _places(ends, context))  # [C, M]
            self.context = nn.Parameter(self._initial(context, generator))

    words: Tensor
    index: Tensor
    ends: Tensor
    places: Tensor

    def _initial(self, context: Context, generator: torch.Generator | None) -> Tensor:
        """The learned words [M, W] at their start: CoOp's N(0, 0.02), or the words that they replace."""
        if not context.is_worded:
            return torch.empty(context.left + context.right, self.width).normal_(0.0, PROMPT_STD, generator=generator)
        chosen = self.index.gather(1, self.places)  # [C, M]
        if not torch.equal(chosen, chosen[:1].expand_as(chosen)):
            raise UserError("coop_init prompt: words of the prompt run into the class names; set a space beside {}")
        return self.words[chosen[0]].clone()

    def prompt_site(self) -> PromptSite:
        """Behind the start token: in a causal tower what comes after the end-of-text token has no effect."""
        return PromptSite(self.length, 1, PROMPT_STD * 3**0.5)

    def forward(self) -> Tensor:
        rows = torch.arange(len(self.index), device=self.index.device)
        if len(rows) <= CHUNK:
            return self._encode(rows)
        run = self._encode
        if torch.is_grad_enabled():
            run = partial(checkpoint, self._encode, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([run(part) for part in rows.split(CHUNK)])

    def _encode(self, rows: Tensor) -> Tensor:
        dtype = self.compute_dtype
        x = self.words[self.index[rows]].to(dtype)  # [c, L, W]
        if self.context is not None:
            places = self.places[rows][:, :, None].expand(-1, -1, self.width)
            x = x.scatter(1, places, self.context.to(dtype).expand(len(rows), -1, -1))
        x = x + self.positions.to(dtype)
        for block in self.blocks:
            x = block(x)
        ends = self.ends[rows] + x.shape[1] - self.length  # learned tokens behind the start token move it
        return self.norm(x[torch.arange(len(rows), device=x.device), ends])


def _check_room(prompts: list[str], tokens: Tensor, ends: Tensor) -> None:
    """Tokenizers cut what is too long, and what is left has no place for a context."""
    full = (ends == tokens.shape[1] - 1).nonzero()[:, 0].tolist()
    if full:
        raise UserError(
            f"{len(full)} prompts fill all {tokens.shape[1]} tokens of the text tower (first: {prompts[full[0]]!r}): "
            "use a smaller coop_length or shorter class names"
        )


def _places(ends: Tensor, context: Context) -> Tensor:
    """Positions of the context's tokens in each prompt, [C, M]: after the start token, and before the end-of-text token."""
    left = torch.arange(1, context.left + 1).expand(len(ends), -1)
    behind = torch.arange(-context.right, 0) - (0 if context.is_worded else 1)  # 1: the full stop
    return torch.cat([left, ends[:, None] + behind], dim=1)
