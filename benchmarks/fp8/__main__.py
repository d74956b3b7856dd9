"""What ``--frozen fp8`` does, emulated on a CPU: ``python -m benchmarks.fp8 [errors] [accuracy] [--cifar FOLDER]``.

Errors of logits and gradients of one batch, against fp32, and the accuracy after training: each training runs once with
frozen products in bf16 and once in fp8, with the same seeds. Both kinds of products are emulated (``emulation.py``),
everything else runs as it is. Trainings that are there already are not repeated. Writes ``benchmarks/results/fp8.json`` and
the tables in ``docs/results.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.documents import RESULTS, ROOT, fill, table
from benchmarks.fp8 import errors
from benchmarks.fp8.emulation import emulated_products
from fastlift import recipes
from fastlift.config import load
from fastlift.data.datasets.cifar import long_tail_counts
from fastlift.data.loading.loader import build_loader
from fastlift.engine.build import load_data
from fastlift.engine.model import load_run
from fastlift.engine.train import train
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.reporting.console import Terminal
from fastlift.system.device import describe_machine, versions
from fastlift.system.files import write_json
from fastlift.system.progress import Quiet, Ui

SHAPES = {"dataset": "shapes_lt"}
WAYS = ("compute", "fp8")  # of ``--frozen``; the first is bf16
BATCH = 128  # images of which errors are told
BAR = 0.3  # points that the mean may be below that of bf16
LARGEST = 1000  # images of a class in the part of CIFAR-10-LT that is trained on: 2,478 in all
FILE = RESULTS / "fp8.json"


@contextmanager
def on_a_cpu() -> Iterator[None]:
    """Emulated products, and ``--frozen fp8`` allowed."""
    with emulated_products(), patch.object(Fp8Settings, "check", lambda *_: None):
        yield


def small_cifar(root: Path, folder: Path) -> dict[str, Any]:
    """Lists of CIFAR-10-LT at ratio 100 that begins with ``LARGEST`` images a class and not 5,000, with the whole test split."""
    names = sorted(path.name for path in (root / "train").iterdir())
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for label, (name, count) in enumerate(zip(names, long_tail_counts(len(names), LARGEST, 100), strict=True)):
        for split, most in (("train", int(count)), ("test", None)):
            files = sorted((root / split / name).iterdir())[:most]
            lines[split] += [f"{file.relative_to(root)} {label}" for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    for split, of in lines.items():
        (folder / f"{split}.txt").write_text("\n".join(of) + "\n", encoding="utf-8")
    (folder / "names.txt").write_text("".join(f"{name} {name}\n" for name in names), encoding="utf-8")
    files = {"train_list": "train.txt", "test_list": "test.txt", "class_names": "names.txt"}
    paths = {setting: str((folder / file).resolve()) for setting, file in files.items()}
    return {"dataset": "list", "data_root": str(root), **paths}


def run_folder(folder: Path, recipe: str, dataset: str, frozen: str, seed: int) -> Path:
    """Of a training."""
    return folder / f"{dataset}-{recipe}-{frozen}-seed{seed}"


def measure(recipe: str, data: dict[str, Any], frozen: str, seed: int, folder: Path, ui: Ui) -> dict[str, Any]:
    """What a training reached, from the run that is there or a new one."""
    run = run_folder(folder, recipe, data["dataset"], frozen, seed)
    if not (run / "results.json").is_file():
        settings = {"amp": "bf16", "compile": "off", "device": "cpu", "threads": torch.get_num_threads()}
        config = recipes.build(recipe, **data, model="shapes-clip", seed=seed, frozen=frozen, **settings)
        ui.say(f"{run.name}")
        with on_a_cpu():
            train(config, output=run, overwrite=True, ui=ui)
    return json.loads((run / "results.json").read_text(encoding="utf-8"))["metrics"]


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The accuracies of each way, seed by seed, and how far the mean of fp8 is above that of bf16, in points."""
    groups = ("accuracy", "many", "medium", "few")
    found: dict[str, Any] = {way: {name: [one[name] for one in runs[way]] for name in groups} for way in WAYS}
    pairs = zip(*(found[way]["accuracy"] for way in WAYS), strict=True)
    differences = [fp8 - bf16 for bf16, fp8 in pairs]
    mean = statistics.fmean(differences)
    return {**found, "differences": differences, "difference": mean, "within_bar": mean >= -BAR}


def of_a_trained_model(run: Path) -> dict[str, Any]:
    """Errors of the model of a run, for images that it was tested on."""
    model, config = load_run(run), load(run / "config.json")
    data, preprocessing = load_data(config.data, Quiet()), model.preprocessing
    loader = build_loader(
        data.test,
        EnsemblingSettings().build(preprocessing),
        batch_size=BATCH,
        shuffle=True,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    images, labels, _ = next(iter(loader.epoch(0)))
    return errors.of_a_batch(model, images.float(), labels.long(), torch.as_tensor(data.train.class_counts()))


def accuracy_table(found: dict[str, Any]) -> str:
    """The table of all trainings."""
    rows = []
    for training, numbers in found["trainings"].items():
        for way in WAYS:
            cells = [_spread(numbers[way][group]) for group in ("accuracy", "many", "medium", "few")]
            change = "" if way == WAYS[0] else f"{numbers['difference']:+.2f}"
            seeds = ", ".join(map(str, numbers["seeds"]))
            rows.append([training, seeds, "bf16" if way == WAYS[0] else "fp8", *cells, change])
    head = ["training", "seeds", "frozen products", "all", "many", "medium", "few", "all: fp8 - bf16"]
    return f"{table(head, rows)}\n\nAccuracy in %, mean and sample standard deviation over the seeds. {_about(found)}"


def error_table(found: dict[str, Any]) -> str:
    """Logits and gradients against fp32."""
    rows = []
    for model, ways in found["models"].items():
        for way, numbers in ways.items():
            cells = [f"{100 * numbers[name]:.2f} %" for name in ("logits", "tuner_gradient", "head_gradient")]
            rows.append([model, way, *cells, f"{numbers['tuner_gradient_cosine']:.5f}"])
    head = [
        "model",
        "frozen products",
        "logits",
        "gradient of the tuner",
        "of the classifier",
        "cosine to the tuner's in fp32",
    ]
    fast = found["fast_accumulation"]
    sums = ", ".join(
        f"{100 * fast[inner]['rounding']:.2f} and {100 * fast[inner]['both']:.2f} % at {inner}" for inner in fast
    )
    return (
        f"{table(head, rows)}\n\nErrors of one batch relative to fp32 (of logits: root mean square over their standard deviation). "
        f"One product of random numbers, by its inner size, without and with fast accumulation: {sums}. {_about(found)}"
    )


def _about(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return f"{machine['cpu']}, {machine['threads']} threads, torch {found['versions']['torch']}."


def _spread(values: list[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return "–"
    mean = f"{statistics.fmean(numbers):.2f}"
    return f"{mean} ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else mean


def measure_errors(options: argparse.Namespace) -> dict[str, Any]:
    """Of one batch of the embedded set's first run, and of a large model."""
    measure("lift", SHAPES, WAYS[0], options.seeds[0], options.folder, Terminal())
    trained = of_a_trained_model(run_folder(options.folder, "lift", SHAPES["dataset"], WAYS[0], options.seeds[0]))
    return {
        "models": {"shapes-clip, trained": trained, "ViT-B/16, random": errors.of_a_large_model()},
        "fast_accumulation": errors.of_fast_accumulation(),
    }


def measure_accuracy(options: argparse.Namespace) -> dict[str, Any]:
    """All trainings of all seeds both ways."""
    trainings: dict[str, tuple[str, dict[str, Any]]] = {"`lift`, shapes_lt": ("lift", SHAPES)}
    if options.cifar is not None:
        part = small_cifar(options.cifar, options.folder / "cifar")
        trainings[f"`lift_plus`, CIFAR-10-LT, {LARGEST:,} to {LARGEST // 100} images a class"] = ("lift_plus", part)
    ui, found = Terminal(), {}
    for name, (recipe, data) in trainings.items():
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        seeds = [
            seed for seed in options.seeds if not options.finished or _is_there(options.folder, recipe, data, seed)
        ]
        for seed in seeds:
            for way in WAYS:
                runs[way].append(measure(recipe, data, way, seed, options.folder, ui))
        if seeds:
            found[name] = {"seeds": seeds, **summary(runs)}
    return {"trainings": found}


def _is_there(folder: Path, recipe: str, data: dict[str, Any], seed: int) -> bool:
    return all((run_folder(folder, recipe, data["dataset"], way, seed) / "results.json").is_file() for way in WAYS)


MEASUREMENTS = {"errors": (measure_errors, error_table), "accuracy": (measure_accuracy, accuracy_table)}


def main() -> None:
    """Measure what was named, or both; keep it and fill in its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", choices=[*MEASUREMENTS, []], metavar="WHAT", help="errors, accuracy (default: both)"
    )
    parser.add_argument("--cifar", type=Path, help="folder with CIFAR-10 as train/CLASS/ and test/CLASS/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/fp8"))
    parser.add_argument("--finished", action="store_true", help="only seeds that were trained both ways already")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.what) - set(MEASUREMENTS):
        parser.error(f"no measurement called {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(options.threads)
    for what in options.what or MEASUREMENTS:
        run, text_of = MEASUREMENTS[what]
        about = {"machine": describe_machine(torch.device("cpu")), "versions": versions()}
        found = {**about, **run(options)}
        kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
        write_json(FILE, {**kept, what: found})
        text = text_of(found)
        fill(ROOT / "docs" / "results.md", f"fp8-{what}", text)
        print(text)


if __name__ == "__main__":
    main()
