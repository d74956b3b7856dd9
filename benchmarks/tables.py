"""Tables of the documents from the numbers in ``benchmarks/results``: ``python -m benchmarks.tables``.

Only files that are there are written about; every table names the machine and the load it was measured under.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.documents import RESULTS, ROOT, fill, table
from benchmarks.paper.tables import NAMES

Json = dict[str, Any]


def _about(part: Json) -> str:
    machine, versions = part["machine"], part["versions"]
    load = part.get("load_average_before")
    busy = "" if load is None else f", load {load:.1f} before"
    return f"{machine['cpu']}, {machine['threads']} threads, torch {versions['torch']}{busy}."


def step(found: Json) -> str:
    """The training step, way by way."""
    rows = []
    for recompute, bench in found["train"].items():
        if recompute not in ("none", "mlp", "block"):
            continue
        ways = bench["rows"] if recompute == "none" else {"fastlift": bench["rows"]["fastlift"]}
        for way, row in ways.items():
            title = "reference path" if way == "reference" else f"fastlift, recompute {recompute}"
            rows.append(_step_row(title, bench, row, way))
    compiled, bf16 = found["compiled"], found["bf16"]
    rows.append(_step_row("fastlift, compiled", compiled, compiled["rows"]["fastlift"], "fastlift"))
    for way, row in bf16["rows"].items():
        title = "reference path, bf16" if way == "reference" else "fastlift, bf16"
        rows.append(_step_row(title, bf16, row, way))
    head = ["", "images/s", "times its reference", "GFLOP/image", "of the matmul rate", "saved MiB/image", "ops/step"]
    none = found["train"]["none"]
    return (
        f"{table(head, rows)}\n\n{none['model']}, batch {none['batch']}, rank {none['rank']}, {none['classes']} classes, fp32 but where bf16 is said; "
        f"losses of 20 steps differ by at most {none['loss_difference']:.1e} relative in fp32; measured matmul "
        f"rate {none['matmul_gflops']:.0f} GFLOP/s in fp32, {bf16['matmul_gflops']:.0f} in bf16. {_about(found['train'])}"
    )


def _step_row(title: str, bench: Json, row: Json, way: str) -> list[str]:
    times = "1" if way == "reference" else f"{bench['speedup']:.2f}"
    share = f"{100 * row['matmul_share']:.0f} %"
    compiled = title.endswith("compiled")
    saved = "–" if compiled else f"{row['saved_mib_per_image']:.1f}"
    ops = "–" if compiled else str(row["ops_per_step"])
    return [title, f"{row['images_per_s']:.2f}", times, f"{row['gflop_per_image']:.1f}", share, saved, ops]


def rest_of_a_run(found: Json) -> str:
    """Evaluation, loop, text, commands and fp8, as a list of bars."""
    evaluation, loop, text = found["evaluation"], found["loop"], found["text"]
    commands, fp8 = found["commands"], found["fp8"]
    speedup = evaluation["batches"]["speedup"]
    large, trained = fp8["large"]["fp8"], fp8["trained"]
    default, start = commands["default_training"], commands["start_up"]
    rows = [
        ["evaluation, ViT-B/16, eager", f"{speedup['fastlift']:.2f} times the plain way"],
        ["evaluation, ViT-B/16, compiled", f"{speedup['fastlift compiled']:.2f} times the plain way"],
        ["five crops, embedded test split", f"{evaluation['five_crops']['five_to_one']:.2f} times the cost of one"],
        *(
            [f"loop around a step, {classes} classes", f"{100 * loop[classes]['loop_share']:.2f} % of the step"]
            for classes in ("1000", "8142")
        ),
        [
            "text start, 1000 classes, cold",
            f"{text['fastlift_s']:.2f} s, {text['speedup']:.1f} times the plain 77 tokens",
        ],
        ["text start, 1000 classes, from the cache", f"{1e3 * text['cached_s']:.0f} ms"],
        ["text start, 1000 classes, 80 templates, cold", f"{found['ensemble']['seconds']:.0f} s"],
        [
            "`fastlift train`, first use (draws its data)",
            f"{default['first_s']:.0f} s, {default['peak_gib']:.1f} GiB at most",
        ],
        ["`fastlift train` again", f"{default['second_s']:.0f} s"],
        ["`fastlift --help`", f"{start['help_s']:.2f} s"],
        [
            "`import fastlift`",
            f"{start['import_s']:.2f} s, of torch, DALI, Triton it loads {start['loaded_by_import']}",
        ],
        [
            "`--frozen fp8`, emulated, ViT-B/16 with random weights",
            f"logits off by {100 * large['relative_error']:.1f} % of their spread "
            f"(bf16: {100 * fp8['large']['bf16']['relative_error']:.1f} %)",
        ],
        [
            "`--frozen fp8`, emulated, shapes-clip trained by LIFT",
            f"accuracy {trained['accuracy']['fp8']:.1f} % (bf16 {trained['accuracy']['bf16']:.1f}, "
            f"fp32 {trained['accuracy']['fp32']:.1f}); {100 * trained['against_fp32']['fp8']['same_prediction']:.1f} % of "
            f"predictions as in fp32",
        ],
    ]
    return f"{table(['what', 'measured'], rows)}\n\n{_about(found['evaluation'])}"


def ops(found: Json) -> str:
    """The ops against eager PyTorch and torch.compile."""
    rows = []
    for workload in found["workloads"]:
        for direction in ("forward", "backward", "both"):
            part = workload[direction]
            ms, times = part["median_ms"], part["fused_faster_than"]
            cells = [f"{ms[way]:.2f}" for way in ("eager", "compile", "fused")]
            rows.append([workload["name"], direction, *cells, f"{times['eager']:.2f}", f"{times['compile']:.2f}"])
    head = ["op", "direction", "eager (ms)", "compile (ms)", "fused (ms)", "times eager", "times compile"]
    memory = [
        f"{w['name']}: extra peak memory {w['peak_extra_mib']['fused']:.0f} MiB against eager's "
        f"{w['peak_extra_mib']['eager']:.0f}."
        for w in found["workloads"]
        if "peak_extra_mib" in w
    ]
    m = found["machine"]
    about = (
        f"{m['device']}, {m['threads']} threads, {m['native_isa']}, {m['dtype']}, torch {m['torch']}, copy {m['copy_gb_per_s']} "
        f"GB/s, matmul {m['matmul_gflop_per_s']} GFLOP/s, load {m['load_average']} before, {m['date']}; medians of alternated rounds."
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
    head = ["model", "mode", "plain modules (s a step)", "fastlift (s a step)", "times as fast", "saved for backward"]
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
    best = by_way["fastlift-dali"]
    m = loaders["machine"]
    lines = [
        table(["training views of 224 px", "images/s", "CPU ms an image", "peak MiB"], rows),
        f"DALI: {best / by_way['torchvision-pil']:.2f} times torchvision with PIL, {best / by_way['torchvision-io']:.2f} times "
        f"torchvision.io. Bottleneck: {loaders['bottleneck']}. Pictures: {loaders['source']}.",
        f"Header scan, warm: {statistics.median(scan['files_per_s']):,.0f} files/s. Index of {index['lines']:,} lines from its "
        f"cache: {statistics.median(r['seconds'] for r in index['rounds']):.2f} s, "
        f"{max(r['growth_mib'] for r in index['rounds']):.0f} MiB.",
    ]
    for way, seen in (found.get("memory") or {}).items():
        if isinstance(seen, dict) and "held_mib" in seen:
            held = seen["held_mib"]
            lines.append(
                f"Memory held over 20 epochs, {way}: {held[0]:.0f} MiB after the first, {held[-1]:.0f} after the last."
            )
    if "pack" in found:
        lines.append(_packs(found["pack"]))
    lines.append(f"{m['processor']}, {m['cores']} cores, load {m['load_average']:.1f}.")
    return "\n\n".join(lines)


def _packs(pack: Json) -> str:
    """Size and speed of packs beside the same pictures as files."""
    rows = []
    for name, what in pack.items():
        if isinstance(what, dict) and "torchvision_images_per_s" in what:
            speeds = [
                f"{statistics.median(what[key]):.0f}" if (key := f"{executor}_images_per_s") in what else "–"
                for executor in ("torchvision", "dali")
            ]
            rows.append([name, f"{100 * what.get('bytes_of_files', 1):.0f} %", *speeds])
    return table(["the same pictures as", "size", "images/s, torchvision", "images/s, DALI"], rows)


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
    ("ops_cpu.json", "docs/results.md", "ops", ops),
    ("drop_in.json", "docs/drop_in.md", "measured", drop_in),
    ("resizing.json", "docs/results.md", "resizing", resizing),
    ("pipeline.json", "docs/results.md", "pipeline", pipeline),
]


def paper_tables(folder: Path, images: Path) -> str:
    """What ``benchmarks.paper`` wrote for a data set, in the order of its tables, with the pictures of figures."""
    note = "\n\n– : the paper's number is not among this project's sources, or is of other data."
    parts = []
    for name in NAMES:
        file, picture = folder / f"{name}.md", images / f"{folder.name}_{name}.svg"
        if file.is_file():
            parts.append(file.read_text(encoding="utf-8").strip().removesuffix(note))
        if picture.is_file():
            parts.append(f"![{name}]({images.name}/{picture.name})")
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
