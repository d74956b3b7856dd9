"""``fastlift push``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastlift.commands.parsing import parse

EXAMPLES = (
    "fastlift push runs/birds someone/birds --license apache-2.0",
    "fastlift push runs/birds someone/birds --private",
    "fastlift push runs/birds someone/birds --to birds-to-look-at",
)


@dataclass(frozen=True)
class Push:
    """Upload a run to the Hugging Face hub with a model card made from it: fastlift.from_pretrained("user/name") loads it.

    Only the trained weights leave, with settings, class names and figures; no image, no log, no name of a folder. 'hf auth login' or
    HF_TOKEN says who you are.
    """

    run: tyro.conf.Positional[Path]
    """A run folder."""
    repository: tyro.conf.Positional[str]
    """user/name on the hub; it is made where it does not exist."""
    license: str | None = None
    """Licence of the trained weights, as the hub spells it: apache-2.0, cc-by-4.0 ..."""
    private: bool = False
    """Make a new repository private."""
    checkpoint: str | None = None
    """A checkpoint: best, last, a number of epochs (3) or a name (epoch-003). Default: best where there is one, else last."""
    to: Path | None = None
    """Write what would be uploaded to this new folder, and upload nothing."""


def run(arguments: list[str]) -> int:
    """Upload, and say where."""
    command = parse(Push, arguments, "push", examples=EXAMPLES)
    from fastlift.engine import sharing
    from fastlift.reporting.console import Terminal, show_line

    sharing.check_repository(command.repository)
    if command.to is not None:
        show_line(
            str(
                sharing.publishable(
                    command.run, command.to, command.repository, checkpoint=command.checkpoint, licence=command.license
                )
            )
        )
    else:
        show_line(
            sharing.push(
                command.run,
                command.repository,
                private=command.private,
                checkpoint=command.checkpoint,
                licence=command.license,
                ui=Terminal(),
            )
        )
    return 0
