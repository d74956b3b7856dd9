"""Weights: files read without running code, compared with their model, checked for damage; and the fingerprint of weights."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastlift.errors import UserError

RANDOM = "random"  # in place of a tag or a file: untrained weights, asked for by name
SAMPLES = 512  # of a tensor's entries, for the fingerprint


def read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, in fp32; no code in it is run."""
    from open_clip.factory import load_state_dict

    try:
        state = load_state_dict(str(weights), weights_only=True)
        return {name: tensor.float() for name, tensor in state.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # torch and safetensors raise a dozen kinds; each means that this is no weights file
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to run the code in the file
            reason = "it is damaged, or holds other objects than tensors"
        raise UserError(
            f"{weights} is not a weights file that can be read safely: expected safetensors, or a PyTorch file of "
            f"tensors alone ({reason})"
        ) from error


def check_fit(given: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    """Compare names and shapes of two states.

    Raises:
        UserError: they differ; the message names the first ten tensors and says how many.
    """
    problems = [f"missing {name} {list(wanted[name].shape)}" for name in wanted.keys() - given.keys()]
    problems += [f"not in the model: {name} {list(given[name].shape)}" for name in given.keys() - wanted.keys()]
    problems += [
        f"{name}: {list(given[name].shape)} in the file, {list(wanted[name].shape)} in the model"
        for name in given.keys() & wanted.keys()
        if given[name].shape != wanted[name].shape
    ]
    if problems:
        shown = "\n  ".join(sorted(problems)[:10])
        raise UserError(f"{what} ({len(problems)} tensors differ):\n  {shown}")


def load_strictly(model: nn.Module, state: dict[str, Tensor], weights: Path, name: str) -> None:
    """Load the state of a weights file.

    Raises:
        UserError: it does not fit the model ``name``, or holds NaN or infinity; the message names tensors.
    """
    check_fit(state, model.state_dict(), f"the weights {weights} do not fit the model {name}")
    wrong = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise UserError(
            f"the weights {weights} hold NaN or infinity in {len(wrong)} tensors (first: {wrong[0]}): they are damaged"
        )
    model.load_state_dict(state)


@contextmanager
def seeded() -> Iterator[None]:
    """Untrained weights are the same ones every time, so that a run on them can be read again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def weights_fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """A short name for a set of weights, so that a cache or a checkpoint never meets other weights unnoticed.

    Hash of names, shapes, dtypes and bits: each tensor enters by the sum of its words and an even sample of entries.

    The sum (of 64-bit words, modulo 2^64) sees every weight and is the same whatever the number of threads; the sample sees
    the weights' order. Hashing all bytes of a large model would take most of a second.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in named:
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        raw = flat.view(torch.uint8).numpy()
        whole = len(raw) // 8 * 8
        total = np.add.reduce(raw[:whole].view(np.uint64), dtype=np.uint64)
        sample = flat[:: max(1, len(flat) // SAMPLES)].contiguous().view(torch.uint8).numpy()
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(total.tobytes() + raw[whole:].tobytes() + sample.tobytes())
    return digest.hexdigest()
