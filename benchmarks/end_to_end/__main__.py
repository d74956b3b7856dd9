"""Every end-to-end bar in one run: ``python -m benchmarks.end_to_end [--quick]``; JSON goes to ``benchmarks/results/``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from fastlift.bench import text, train
from fastlift.files import write_json

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    """Measure the step for each way of recomputing, and text features; print tables and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, for trying it out; nothing is kept")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    found = {}
    for recompute in ("none", "mlp", "block"):
        steps = 20 if recompute == "none" and not options.quick else 2
        bench = train.run(options.model, batch=options.batch, rounds=rounds, recompute=recompute, loss_steps=steps)
        Console().print(f"recompute {recompute}", bench.render())
        found[f"train_{recompute}"] = bench.to_dict()
    features = text.run(options.model, rounds=1 if options.quick else 3)
    Console().print(features.render())
    found["text"] = features.to_dict()
    if not options.quick:
        write_json(RESULTS / "end_to_end.json", found)


if __name__ == "__main__":
    main()
