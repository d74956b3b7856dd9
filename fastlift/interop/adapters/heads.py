"""A run's classifier beside its adapters: ``classifier.safetensors``, with the names of the classes in its metadata.

It tells the adapters that it was trained with, so a kill between the two files, or others' adapters in the same folder, leave
none that is taken for theirs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from fastlift import __version__
from fastlift.errors import UserError
from fastlift.interop.adapters import peft_files
from fastlift.interop.adapters.store import DESCRIPTION, FILE, check_finite, check_read, fetched, read_described
from fastlift.models.classifiers import CLASSIFIERS, Classifier, WeightClassifier, ZeroShotClassifier
from fastlift.models.lift import LiftModel
from fastlift.models.text.classifier import TextClassifier
from fastlift.models.tuners.adapter import Adapter
from fastlift.models.weights import check_fit
from fastlift.system import sealed

CLASSIFIER = "classifier.safetensors"
_ADAPTER = "adapter."  # of the names of a CLIP-Adapter's parameters
OF_TEXT: Literal["zero_shot"] = "zero_shot"


class HeadDescription(msgspec.Struct, kw_only=True, frozen=True):
    """What ``classifier.safetensors`` says of itself in its metadata."""

    format: Literal[1] = 1
    fastlift: str = __version__
    classifier: str  # one of CLASSIFIERS, or of class features that came from text
    scale: Annotated[float, msgspec.Meta(gt=0, lt=1e30)]
    class_names: Annotated[list[str], msgspec.Meta(min_length=1)]
    adapters: str  # BLAKE2b of the file with the adapters that it was trained with


def write_classifier(model: LiftModel, adapters: Path) -> None:
    """Write the classifier of a run beside the file of its adapters, which is there already."""
    classifier: Classifier = model.classifier
    if isinstance(classifier, TextClassifier):
        classifier = classifier.constant()
    kind = classifier.NAME if isinstance(classifier, WeightClassifier) else OF_TEXT
    described = HeadDescription(
        classifier=kind,
        scale=float(classifier.scale),
        class_names=list(model.class_names),
        adapters=_digest(adapters),
    )
    state = {name: value.detach().float().cpu().contiguous() for name, value in classifier.state_dict().items()}
    check_finite(state)
    texts = {DESCRIPTION: json.dumps(msgspec.to_builtins(described), allow_nan=False)}
    sealed.write(adapters.with_name(CLASSIFIER), state, texts)


def load_classifier(source: str | Path, *, revision: str | None = None) -> tuple[tuple[str, ...], Classifier]:
    """The classes and the classifier of a run that left as adapters (``fastlift adapters RUN --to FOLDER``).

    ``classifier(features)`` takes features [B, D] in any float dtype to logits [B, C] in fp32, of the classes in the order of
    the names. Features are what the run's backbone gave: those of a timm model without its classifier (``num_classes=0``), of
    an open_clip tower without its projection (``visual.proj = None``), the ``pooler_output`` of transformers' models. Norms,
    the scale of a cosine and CLIP's projection belong to the classifier.

    Args:
        source: a folder, or a Hugging Face hub repository as ``hub:OWNER/NAME``.
        revision: branch, tag or commit of the repository.

    Returns:
        (names of the C classes, classifier); its weights can be trained on.

    Raises:
        UserError: no such folder or repository, one without a classifier, a damaged one, or one of other adapters than those
            that are in the folder.
    """
    path = fetched(str(source), revision, CLASSIFIER)
    if not path.is_file():
        raise UserError(f"{source} holds no classifier ({CLASSIFIER}); fastlift adapters RUN --to FOLDER writes one")
    described, state = read_described(path, HeadDescription, "a classifier")
    beside = [digest for name in (FILE, peft_files.FILE) if (digest := _digest(path.with_name(name)))]
    if beside and described.adapters not in beside:
        raise UserError(f"{path} was trained with other adapters than those beside it: write both anew from one run")
    classifier = _made(described, state, path)
    check_fit(state, classifier.state_dict(), f"{path} does not fit its description")
    if len(classifier.weight) != len(described.class_names):
        raise UserError(
            f"{path} names {len(described.class_names)} classes and has weights of {len(classifier.weight)}"
        )
    check_read(state, path)
    classifier.load_state_dict(state)
    return tuple(described.class_names), classifier.eval()


def _made(described: HeadDescription, state: dict[str, Tensor], path: Path) -> Classifier:
    """A classifier for such tensors, without their values."""
    weight, known = state.get("weight"), (*CLASSIFIERS, OF_TEXT)
    if described.classifier not in known or weight is None or weight.dim() != 2:
        raise UserError(f"{path} holds no classifier that is known here ({', '.join(known)})")
    classes, width = weight.shape
    unused = torch.Generator()  # of a random start, so that others' random numbers stay where they are
    if described.classifier != OF_TEXT:
        made = CLASSIFIERS[described.classifier](width, classes, generator=unused)
        made.scale = described.scale
        return made
    down, adapter = state.get(f"{_ADAPTER}down_proj.weight"), None
    if down is not None:
        with torch.random.fork_rng([]):
            adapter = Adapter(width, len(down), unused)
    projection = state.get("projection")
    empty = None if projection is None else torch.empty_like(projection)
    return ZeroShotClassifier(empty, torch.empty_like(weight), described.scale, adapter)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest() if path.is_file() else ""
