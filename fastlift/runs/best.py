"""The checkpoint of a run that was best on its validation split, by the evaluations in its log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fastlift.errors import UserError
from fastlift.evaluation.validation import ValidationSettings
from fastlift.runs import checkpoints
from fastlift.runs.identity import Identity


def best_checkpoint(
    folder: Path, found: Iterable[Mapping[str, Any]], settings: ValidationSettings, identity: Identity | None
) -> tuple[Path | None, list[str]]:
    """The best checkpoint in ``folder`` that is whole and the run's own, and why better ones were passed over.

    Args:
        found: evaluations of the validation split, events of ``metrics.jsonl``.
        settings: by which figure.
    """
    reasons: list[str] = []
    for event in settings.ranked(found):
        name = f"{event.get('checkpoint', 'one without a name')}.safetensors"
        if not checkpoints.is_name(name):  # another program's line
            continue
        try:
            checkpoints.read(folder / name, identity)
        except UserError as error:
            reasons.append(str(error))
        else:
            return folder / name, reasons
    return None, reasons


def usable_best(
    folder: Path,
    found: Iterable[Mapping[str, Any]],
    settings: ValidationSettings,
    identity: Identity | None,
    say: Callable[[str], None],
) -> Path | None:
    """As ``best_checkpoint``, telling ``say`` which were passed over; None where nothing was evaluated.

    Raises:
        UserError: not one of those that were evaluated can be used.
    """
    path, reasons = best_checkpoint(folder, found, settings, identity)
    if path is None and reasons:
        raise UserError(f"no checkpoint that was evaluated on the validation split can be used: {'; '.join(reasons)}")
    for reason in reasons:
        say(f"passed over: {reason}; {path.name if path else ''} is used instead")
    return path
