"""``fastlift predict RUN IMAGE ...``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastlift.commands.parsing import embedded, parse_changes
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.models.prediction.result import AnswerSettings, Prediction
from fastlift.reporting.predictions import Format
from fastlift.system import launcher
from fastlift.system.printing import masked
from fastlift.system.settings import DeviceSettings, ThreadSettings

EXAMPLES = (
    "fastlift predict RUN photo.jpg folder/ --top 3",
    "fastlift predict RUN 'photos/**/*.jpg' 'shards/{00..63}.tar' --output predictions.csv --threshold 0.5",
    "fastlift predict RUN photos/ --calibrated --json",
    "fastlift predict RUN https://example.org/cat.jpg s3://bucket/photos",
    "fastlift predict RUN --list millions.txt --output predictions.parquet --resume",
)


@dataclass(frozen=True)
class Predict:
    """The most probable classes of images, by a trained run.

    An image whose best class has a probability below --threshold is "none of these". Files that cannot be used are told on
    stderr, and make the exit code 1; in an --output file they have a record with the problem.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[PLACE [PLACE ...]]")]
    """Files; folders, which are searched to any depth; patterns in quotes; tar files of images (WebDataset shards); URLs of
    images, and of folders in S3, GCS or the hub."""
    list: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    """Text files with the path or URL of an image in each line, any number of them."""
    answer: AnswerSettings = field(default_factory=AnswerSettings)
    calibrated: bool = False
    """With the probabilities and the threshold that fastlift calibrate fitted to the run; --threshold overrides the latter."""
    output: Path | None = None
    """Write a record of each image to this file instead of stdout: .txt, .jsonl, .csv or .parquet."""
    format: Format | None = None
    """Format of the records (default: that of the file's ending; text on stdout). Parquet: pip install 'fastlift[parquet]'."""
    json: bool = False
    """One JSON object a line for each image: --format jsonl."""
    resume: bool = False
    """Go on with the --output file of a command that was killed, behind its last whole record; start where there is none."""
    overwrite: bool = False
    """Replace the --output file."""
    inference: InferenceSettings = field(default_factory=lambda: InferenceSettings(eval_batch=64))
    checkpoint: str | None = None
    """A checkpoint: best, last, a number of epochs (3) or a name (epoch-003). Default: best where there is one, else last."""
    weights: Literal["ema", "raw"] | None = None
    """Of a run with --ema: the average of its weights (ema, the default), or those that trained (raw)."""
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    device: DeviceSettings = field(default_factory=DeviceSettings)


def run(arguments: list[str]) -> int:
    """Predict; images without a prediction make the exit code 1."""
    command, changes = parse_changes(Predict, arguments, "predict", (PrecisionSettings,), EXAMPLES)
    if not command.images and not command.list:
        raise UserError("name at least one image or folder: fastlift predict RUN IMAGE ...")
    format = _format(command)
    from fastlift.data.image_sources import ImageSources
    from fastlift.engine.predict import Wanted, predict_images
    from fastlift.engine.prediction_file import PredictionFile, write_predictions
    from fastlift.reporting.console import Terminal

    # All that can be told of what was named is told before the model is loaded.
    images, settings, ui = ImageSources(command.images, command.list), embedded(command), Terminal()
    total = images.count()
    if command.output is not None and command.output.resolve() in [file.resolve() for file in command.list]:
        raise UserError(
            f"--output {command.output} is a list of images that is read, and would be replaced: name another file"
        )
    if total == 0:
        raise UserError(f"no images in {masked(', '.join(map(str, [*command.images, *command.list])))}")
    for name in command.answer.values():
        del settings[name]
    config = Config().override(**settings, **changes)  # refuses what has no effect

    wanted = Wanted(command.run, command.checkpoint, images, command.answer, command.calibrated, command.weights)
    if command.output is None or launcher.rank():
        problems = _show(predict_images(wanted, config, ui), format, command.answer.top)
    else:
        file = PredictionFile(command.output, format, command.resume, command.overwrite)
        problems = write_predictions(file, wanted, config, total, ui)
    # Of several processes the first one's answer: it still prints when the others end, and torchrun ends it where one fails.
    return 1 if problems else 0


def _format(command: Predict) -> Format:
    """The format of the records; UserError for flags that contradict each other, and where Parquet cannot be written."""
    from fastlift.reporting.predictions import format_of

    if command.json and command.format not in (None, "jsonl"):
        raise UserError(f"--json is --format jsonl, and contradicts --format {command.format}")
    format = format_of(command.output, "jsonl" if command.json else command.format)
    if command.output is None:
        if command.resume or command.overwrite:
            raise UserError(f"{'--resume' if command.resume else '--overwrite'} is about a file: name it with --output")
        if format == "parquet":
            raise UserError("--format parquet needs a file: name it with --output")
    if format == "parquet":
        from fastlift.reporting.parquet import check_parquet

        check_parquet()
    return format


def _show(predictions: Iterable[Prediction], format: Format, top: int) -> int:
    """On stdout, and on stderr what has no prediction; gives how many these are."""
    from fastlift.reporting.console import complain
    from fastlift.reporting.predictions import columns, csv_line, line_of

    problems = 0
    for number, prediction in enumerate(predictions):
        if format == "csv" and number == 0:  # not before: what cannot be begun leaves nothing on stdout
            print(csv_line(columns(top)), end="")
        if prediction.problem:
            problems += 1
            complain(f"{prediction.image}: {prediction.problem}")
        else:
            print(line_of(prediction, format, top), end="", flush=True)
    return problems
