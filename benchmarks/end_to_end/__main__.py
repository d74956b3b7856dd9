"""Every end-to-end bar: ``python -m benchmarks.end_to_end [WHAT ...]``; numbers go to ``benchmarks/results/end_to_end.json``.

Each measurement adds its part, with machine and versions, to what is there; ``python -m benchmarks.tables`` makes
the tables of README.md and docs/results.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from benchmarks.end_to_end import commands, evaluation, loop, memory
from fastlift.bench import text, train
from fastlift.system.device import describe_machine, versions
from fastlift.system.files import write_json

RESULTS = Path(__file__).resolve().parents[1] / "results" / "end_to_end.json"


def measure_train(options: argparse.Namespace) -> dict[str, Any]:
    """The training step for each kind of activation checkpointing."""
    found = {}
    for recompute in ("none", "mlp", "block"):
        steps = 20 if recompute == "none" and not options.quick else 2
        bench = train.run(
            options.model, batch=options.batch, rounds=options.rounds, recompute=recompute, loss_steps=steps
        )
        Console().print(f"recompute {recompute}", bench.render())
        found[recompute] = bench.to_dict()
    return found


def measure_compiled(options: argparse.Namespace) -> dict[str, Any]:
    """The training step with a compiled backbone, and the first step, which compiles it with an empty cache."""
    with TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        bench = train.run(options.model, batch=options.batch, rounds=options.rounds, compile=True, loss_steps=2)
    Console().print("compiled", bench.render())
    return bench.to_dict()


def measure_bf16(options: argparse.Namespace) -> dict[str, Any]:
    """The training step in bf16, for processors that multiply it."""
    bench = train.run(options.model, batch=options.batch, rounds=options.rounds, amp="bf16", loss_steps=2)
    Console().print("bf16", bench.render())
    return bench.to_dict()


def measure_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """Batches compared with plain PyTorch; five crops against one."""
    return {
        "batches": evaluation.against_plain(options.model, options.batch, options.rounds),
        "five_crops": evaluation.five_crops(min(options.rounds, 3)),
    }


def measure_ratio(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluation beside the training step."""
    return evaluation.beside_training(
        options.model, options.batch // evaluation.CROPS * evaluation.CROPS, options.rounds
    )


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """What a training step in bf16 has in memory, counted tensor by tensor."""
    return memory.of_a_step(options.model, torch.bfloat16)


def measure_loop(options: argparse.Namespace) -> dict[str, Any]:
    """What the loop around a step costs."""
    return {
        str(classes): loop.overhead(options.model, classes, options.batch, 10 if options.rounds > 1 else 3)
        for classes in (1000, 8142)
    }


def measure_text(options: argparse.Namespace) -> dict[str, Any]:
    """Text features of 1000 classes: the plain way, cut to length, from the cache."""
    features = text.run(options.model, rounds=min(options.rounds, 3))
    Console().print(features.render())
    return features.to_dict()


def measure_ensemble(options: argparse.Namespace) -> dict[str, Any]:
    """Text features of 1000 classes, each the mean over 80 templates."""
    return {"seconds": text.ensemble_seconds(options.model)}


def measure_commands(options: argparse.Namespace) -> dict[str, Any]:
    """Start-up, and training on the embedded data set."""
    return {"start_up": commands.start_up(options.rounds), "default_training": commands.default_training()}


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "train": measure_train,
    "compiled": measure_compiled,
    "bf16": measure_bf16,
    "evaluation": measure_evaluation,
    "ratio": measure_ratio,
    "memory": measure_memory,
    "loop": measure_loop,
    "text": measure_text,
    "ensemble": measure_ensemble,
    "commands": measure_commands,
}


def main() -> None:
    """Measure what was named, or all of it; print it and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(MEASUREMENTS)} (default: all)")
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round, for trying it out; nothing is kept")
    options = parser.parse_args()
    if unknown := set(options.what) - set(MEASUREMENTS):
        parser.error(f"no measurement called {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    if options.quick:
        options.rounds = 1
    for what in options.what or MEASUREMENTS:
        load = os.getloadavg()[0]
        found = MEASUREMENTS[what](options)
        about = {"machine": describe_machine(torch.device("cpu")), "versions": versions(), "load_average_before": load}
        print(what, json.dumps(found), flush=True)
        if not options.quick:
            kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
            write_json(RESULTS, {**kept, what: {**about, **found}})


if __name__ == "__main__":
    main()
