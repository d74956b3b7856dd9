"""Tables of the documents from the numbers in ``benchmarks/results``: ``python -m benchmarks.tables``.

Only files that are there are written about; every table names the machine and the load it was measured under.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.counting import Shape, evaluation_parts, step_flop
from benchmarks.documents import RESULTS, ROOT, fill, table
from benchmarks.end_to_end.evaluation import CROPS
from benchmarks.paper.tables import NAMES

Json = dict[str, Any]


def _about(part: Json) -> str:
    machine, versions = part["machine"], part["versions"]
    load = part.get("load_average_before")
    busy = "" if load is None else f", load average {load:.1f} before the run"
    return f"{machine['cpu']}, {machine['threads']} threads, torch {versions['torch']}{busy}."


def step(found: Json) -> str:
    """The training step: fastlift's variants beside the reference path."""
    rows = []
    for recompute, bench in found["train"].items():
        if recompute not in ("none", "mlp", "block"):
            continue
        ways = bench["rows"] if recompute == "none" else {"fastlift": bench["rows"]["fastlift"]}
        for way, row in ways.items():
            kept = "" if recompute == "none" else f", `--recompute {recompute}`"
            title = "reference path" if way == "reference" else f"fastlift{kept}"
            rows.append(_step_row(title, bench, row, way))
    compiled, bf16 = found["compiled"], found["bf16"]
    rows.append(_step_row("fastlift, compiled", compiled, compiled["rows"]["fastlift"], "fastlift"))
    for way, row in bf16["rows"].items():
        title = "reference path, bf16" if way == "reference" else "fastlift, bf16"
        rows.append(_step_row(title, bf16, row, way))
    head = ["", "images/s", "speedup", "GFLOP/image", "share of matmul rate", "saved MiB/image", "ops/step"]
    none = found["train"]["none"]
    return (
        f"{table(head, rows)}\n\n{none['model']}, batch {none['batch']}, rank {none['rank']}, {none['classes']} classes, fp32 "
        "except where a row says bf16. Speedup: over the reference path in the same dtype and the same benchmark run. Saved: what "
        f"the forward pass keeps for backward. The losses of 20 steps differ by at most {none['loss_difference']:.1e} relative in "
        f"fp32. Measured matmul rate: {none['matmul_gflops']:.0f} GFLOP/s in fp32, {bf16['matmul_gflops']:.0f} in bf16. "
        f"{_about(found['train'])}"
    )


def _step_row(title: str, bench: Json, row: Json, way: str) -> list[str]:
    times = "1" if way == "reference" else f"{bench['speedup']:.2f}"
    share = f"{100 * row['matmul_share']:.0f} %"
    compiled = title.endswith("compiled")
    saved = "–" if compiled else f"{row['saved_mib_per_image']:.1f}"
    ops = "–" if compiled else str(row["ops_per_step"])
    return [title, f"{row['images_per_s']:.2f}", times, f"{row['gflop_per_image']:.1f}", share, saved, ops]


def rest_of_a_run(found: Json) -> str:
    """Evaluation, loop, text and commands."""
    evaluation, loop, text = found["evaluation"], found["loop"], found["text"]
    commands = found["commands"]
    speedup = evaluation["batches"]["speedup"]
    default, start = commands["default_training"], commands["start_up"]
    rows = [
        ["evaluation, ViT-B/16, eager", f"{speedup['fastlift']:.2f} times as fast as the reference path"],
        ["evaluation, ViT-B/16, compiled", f"{speedup['fastlift compiled']:.2f} times as fast as the reference path"],
        [
            "five crops, embedded test split",
            f"{evaluation['five_crops']['five_to_one']:.2f} times the time of one crop",
        ],
        *(
            [f"loop overhead, {classes} classes", f"{100 * loop[classes]['loop_share']:.2f} % of a step"]
            for classes in ("1000", "8142")
        ),
        [
            "text init, 1000 classes, no cache",
            f"{text['fastlift_s']:.2f} s, {text['speedup']:.1f} times as fast as with all 77 tokens",
        ],
        ["text init, 1000 classes, from the cache", f"{1e3 * text['cached_s']:.0f} ms"],
        ["text init, 1000 classes, 80 templates, no cache", f"{found['ensemble']['seconds']:.0f} s"],
        [
            "`fastlift train`, first time (draws its data)",
            f"{default['first_s']:.0f} s, peak memory {default['peak_gib']:.1f} GiB",
        ],
        ["`fastlift train`, second time", f"{default['second_s']:.0f} s"],
        ["`fastlift --help`", f"{start['help_s']:.2f} s"],
        [
            "`import fastlift`",
            f"{start['import_s']:.2f} s; torch, DALI and Triton modules loaded: {', '.join(start['loaded_by_import']) or 'none'}",
        ],
    ]
    return f"{table(['what', 'measured'], rows)}\n\n{_about(found['evaluation'])}"


def ratio(found: Json) -> str:
    """Evaluation beside the training step, and what FLOP alone would give."""
    measured, shape = found["ratio"], Shape()
    flop = step_flop(shape), sum(part.flop for part in evaluation_parts(shape, 1))
    rows = []
    for way, rounds in measured["rounds_ms"].items():
        crops = CROPS if way.startswith("five") else 1
        images, ms = measured["images"] // crops, statistics.median(rounds)
        by_flop = 1.0 if way == "training" else flop[0] / flop[1] / crops
        rows.append(
            [
                way,
                f"{1e3 * images / ms:.2f}",
                f"{measured['times_training'][way]:.2f}",
                f"{by_flop:.2f}",
                str(len(rounds)),
            ]
        )
    head = ["", "images/s", "times training", "by FLOP alone", "rounds"]
    return (
        f"{table(head, rows)}\n\nViT-B-16-quickgelu, rank 32, 1000 classes, fp32, {measured['images']} crops at a time; medians of "
        f"alternated rounds, ratios within a round. {_about(measured)}"
    )


def memory(found: Json) -> str:
    """What a training step has in memory for each image."""
    measured = found["memory"]
    few, many = measured["images"]
    rows = []
    for way in ("none", "mlp", "block"):
        peaks = [f"{peak / 1e6:.0f}" for peak in measured[way]["peak_bytes"]]
        rows.append([f"`--recompute {way}`", *peaks, f"{measured[way]['an_image'] / 1e6:.1f}"])
    head = ["MB at the peak of a step", f"{few} images", f"{many} images", "each further image"]
    return f"{table(head, rows)}\n\nViT-B-16-quickgelu, rank 32, 1000 classes, bf16. {_about(measured)}"


def ops(found: Json) -> str:
    """The ops against eager PyTorch and torch.compile.

    The fused classifier computes its gradients in the forward pass, the others in the backward pass: only the time of both
    passes together compares the same work, so the rows of single passes have no speedup.
    """
    rows = []
    for workload in found["workloads"]:
        is_fused_backward = workload["name"].startswith("classifier")
        for direction in ("forward", "backward", "both"):
            part = workload[direction]
            ms, faster = part["median_ms"], part["fused_faster_than"]
            cells = [f"{ms[way]:.2f}" for way in ("eager", "compile", "fused")]
            is_same_work = direction == "both" or not is_fused_backward
            cells += [f"{faster[way]:.2f}" if is_same_work else "–" for way in ("eager", "compile")]
            rows.append([workload["name"], direction, *cells])
    head = ["op", "direction", "eager (ms)", "compile (ms)", "fused (ms)", "speedup over eager", "speedup over compile"]
    memory = [
        f"{w['name']}: extra peak memory {w['peak_extra_mib']['fused']:.0f} MiB, eager {w['peak_extra_mib']['eager']:.0f} MiB."
        for w in found["workloads"]
        if "peak_extra_mib" in w
    ]
    m = found["machine"]
    about = (
        f"{m['device']}, {m['threads']} threads, {m['native_isa']}, {m['dtype']}, torch {m['torch']}, copy {m['copy_gb_per_s']} "
        f"GB/s, matmul {m['matmul_gflop_per_s']} GFLOP/s, load average {m['load_average']} before the run, {m['date']}; medians of alternated rounds."
    )
    return "\n\n".join([table(head, rows), *memory, about])


def drop_in(found: Json) -> str:
    """``add_adapters`` on other libraries' models."""
    rows = []
    for result in found["results"]:
        plain, ours = (statistics.median(result["seconds"][way]) for way in ("plain", "fastlift"))
        saved = result["saved_mib"]
        memory = f"{saved['fastlift']:.0f} of {saved['plain']:.0f} MiB ({result['saved_ratio']:.2f})" if saved else "–"
        rows.append(
            [
                result["model"],
                result["mode"],
                f"{plain:.2f}",
                f"{ours:.2f}",
                f"{result['speedup_of_medians']:.2f}",
                memory,
            ]
        )
    head = ["model", "mode", "plain modules (s a step)", "fastlift (s a step)", "speedup", "saved for backward"]
    first = found["results"][0]
    return f"{table(head, rows)}\n\nBatch {first['batch']}, fp32, rank 32. {_about(found)}"


def pipeline(found: Json) -> str:
    """The data path."""
    loaders, scan, index = found["loaders"], found["scan"], found["index"]
    rows = [
        [r["way"], f"{r['images_per_s']:.0f}", f"{r['cpu_ms_per_image']:.2f}", f"{r['peak_mib']:.0f}"]
        for r in loaders["rows"]
    ]
    by_way = {r["way"]: r["images_per_s"] for r in loaders["rows"]}
    ours = by_way["fastlift-torchvision"]
    m = loaders["machine"]
    lines = [
        table(["training crops of 224 px", "images/s", "CPU ms per image", "peak MiB"], rows),
        f"fastlift: {ours / by_way['torchvision-pil']:.2f} times the images/s of torchvision with PIL, "
        f"{ours / by_way['torchvision-io']:.2f} times those of torchvision.io. Bottleneck: {loaders['bottleneck']}. Images: "
        f"{loaders['source']}.",
        f"Header scan, files in the page cache: {statistics.median(scan['files_per_s']):,.0f} files/s. Index of {index['lines']:,} lines, read from its "
        f"cache: {statistics.median(r['seconds'] for r in index['rounds']):.2f} s, "
        f"{max(r['growth_mib'] for r in index['rounds']):.0f} MiB.",
    ]
    for way, seen in (found.get("memory") or {}).items():
        if isinstance(seen, dict) and "held_mib" in seen:
            held = seen["held_mib"]
            lines.append(
                f"Memory over 20 epochs, {way}: {held[0]:.0f} MiB after the first, {held[-1]:.0f} MiB after the last."
            )
    if "pack" in found:
        lines.append(_packs(found["pack"]))
    lines += [_dali_on_cpus(run) for run in found.get("dali_on_cpus", {}).get("rounds", ())]
    lines.append(f"{m['processor']}, {m['cores']} cores, load average {m['load_average']:.1f}.")
    return "\n\n".join(lines)


def _packs(pack: Json) -> str:
    """Size and speed of packs beside the same images as files."""
    rows = []
    for name, what in pack.items():
        if isinstance(what, dict) and "torchvision_images_per_s" in what:
            speed = f"{statistics.median(what['torchvision_images_per_s']):.0f}"
            rows.append([name, f"{100 * what.get('bytes_of_files', 1):.0f} %", speed])
    return table(["the same images as", "size", "images/s"], rows)


def _dali_on_cpus(run: Json) -> str:
    """What DALI would save for batches on a CPU."""
    cpu = [
        ours / dali
        for ours, dali in zip(run["torchvision_cpu_ms_per_image"], run["dali_cpu_ms_per_image"], strict=True)
    ]
    clock = [dali / ours for ours, dali in zip(run["torchvision_images_per_s"], run["dali_images_per_s"], strict=True)]
    ours, dali = (statistics.median(run[f"{way}_cpu_ms_per_image"]) for way in ("torchvision", "dali"))
    low, _, high = statistics.quantiles(cpu, n=4)
    return (
        f"DALI for batches on a CPU, {run['interpolation']}, {len(cpu)} alternated rounds of {run['images']} images at a load "
        f"average of {run['load_average'][0]:.1f} to {run['load_average'][1]:.1f}: {ours:.2f} ms of CPU time per image without it, "
        f"{dali:.2f} ms with it. Median ratio: {statistics.median(cpu):.2f} (quartiles {low:.2f} and {high:.2f}). With DALI, "
        f"{statistics.median(clock):.2f} times the images/s."
    )


def resizing(found: Json) -> str:
    """Accuracy by seed beside the authors' programs, and the mean with its spread."""
    rows = []
    for way, seeds in found["ways"].items():
        by_seed = [" / ".join(f"{value:.1f}" for value in seed) for seed in seeds]
        accuracies = [seed[0] for seed in seeds]
        rows.append([way, *by_seed, f"{statistics.mean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"])
    head = ["all / many / medium / few", "seed 0", "seed 1", "seed 2", "all: mean ± spread"]
    return f"{table(head, rows)}\n\n`{found['command']}`"


TABLES: list[tuple[str, str, str, Callable[[Json], str]]] = [
    ("end_to_end.json", "docs/results.md", "step", step),
    ("end_to_end.json", "README.md", "step", step),
    ("end_to_end.json", "docs/results.md", "run", rest_of_a_run),
    ("end_to_end.json", "docs/results.md", "ratio", ratio),
    ("end_to_end.json", "docs/results.md", "memory", memory),
    ("ops_cpu.json", "docs/results.md", "ops", ops),
    ("drop_in.json", "docs/drop_in.md", "measured", drop_in),
    ("resizing.json", "docs/results.md", "resizing", resizing),
    ("pipeline.json", "docs/results.md", "pipeline", pipeline),
]


def paper_tables(folder: Path, images: Path) -> str:
    """What ``benchmarks.paper`` wrote for a data set, in the order of its tables, with the images of its figures."""
    note = "\n\n– : no public source of the paper's number was found, or it is of other data."
    parts = []
    for name in NAMES:
        file, image = folder / f"{name}.md", images / f"{folder.name}_{name}.svg"
        if file.is_file():
            parts.append(file.read_text(encoding="utf-8").strip().removesuffix(note))
        if image.is_file():
            parts.append(f"![{name}]({images.name}/{image.name})")
    return "\n\n".join(parts)


def main() -> None:
    """Fill every table whose numbers are there."""
    documents = ROOT / "docs"
    for folder in sorted(RESULTS.glob("paper_*")):
        fill(documents / "paper_tables.md", folder.name, paper_tables(folder, documents / "images"))
        print(f"docs/paper_tables.md: {folder.name}")
    for file, document, name, make in TABLES:
        source = RESULTS / file
        if source.is_file():
            fill(ROOT / document, name, make(json.loads(source.read_text(encoding="utf-8"))))
            print(f"{document}: {name}")


if __name__ == "__main__":
    main()
