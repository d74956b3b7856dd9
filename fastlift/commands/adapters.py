"""``fastlift adapters RUN --to FOLDER``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastlift.commands.parsing import parse
from fastlift.errors import UserError
from fastlift.interop.adapters.of_runs import Layout

EXAMPLES = (
    "fastlift adapters RUN --to my-adapters                      # fastlift.load_adapters(model, 'my-adapters')",
    "fastlift adapters RUN --to my-lora --peft CLIPModel         # peft.PeftModel.from_pretrained(model, 'my-lora')",
)


@dataclass(frozen=True)
class Adapters:
    """What a run trained inside its backbone, as a folder of a few MB that loads onto the same backbone elsewhere.

    fastlift.load_adapters adds it to a model of timm, open_clip or transformers with the weights that the run started from. A
    run's LoRA can also leave as an adapter of PEFT. The classifier and the names of the classes are beside it, for
    fastlift.load_classifier. fastlift export writes the whole model.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    to: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(required)")] = None
    """The folder to write."""
    peft: Layout | None = None
    """Write an adapter of PEFT (tuners lora and lora_mlp), for a model of timm or for transformers' CLIPModel or
    CLIPVisionModel, by the names of its modules."""
    checkpoint: str | None = None
    """A checkpoint: best, last, a number of epochs (3) or a name (epoch-003). Default: best where there is one, else last."""
    weights: Literal["ema", "raw"] | None = None
    """Of a run with --ema: the average of its weights (ema, the default), or those that trained (raw)."""
    overwrite: bool = False
    """Replace adapters and a classifier that are there."""


def run(arguments: list[str]) -> int:
    """Write by flags."""
    command = parse(Adapters, arguments, "adapters", examples=EXAMPLES)
    if command.to is None:
        raise UserError("name the folder to write: fastlift adapters RUN --to FOLDER")
    from fastlift.config import load
    from fastlift.engine.model import load_run
    from fastlift.interop.adapters import peft_files, store
    from fastlift.interop.adapters.heads import CLASSIFIER
    from fastlift.interop.adapters.of_runs import save_run_adapters
    from fastlift.reporting.console import Terminal, show_line
    from fastlift.runs.folder import open_run

    there, head = command.to / (store.FILE if command.peft is None else peft_files.FILE), command.to / CLASSIFIER
    for file in (there, head):
        if file.exists() and not command.overwrite:
            raise UserError(f"{file} exists already; use --overwrite, or another --to")
    base = str(load(open_run(command.run).config).model.model)
    model = load_run(command.run, command.checkpoint, Terminal(), weights=command.weights)
    save_run_adapters(model, command.to, base=base, peft=command.peft)
    way = "fastlift.load_adapters" if command.peft is None else "peft.PeftModel.from_pretrained"
    show_line(f"{there}: {there.stat().st_size / 2**20:.2f} MiB; {way}(model, {str(command.to)!r}) adds it to {base}")
    show_line(
        f"{head}: names, classifier = fastlift.load_classifier({str(command.to)!r}); {len(model.class_names)} classes"
    )
    return 0
