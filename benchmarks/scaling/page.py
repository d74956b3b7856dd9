"""Writes docs/scaling.md and its plot: ``python -m benchmarks.scaling.page``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.counting import evaluation_parts
from benchmarks.documents import RESULTS, ROOT, table
from benchmarks.roofline import CARDS
from benchmarks.scaling import model, text
from benchmarks.scaling.model import CAPTURED, LARGE, LIFT, NETWORKS, SLOW, TRAININGS, with_classes
from benchmarks.scaling.plot import PLOT, draw

DOCUMENT = ROOT / "docs" / "scaling.md"
FILE = "scaling.json"
Row = dict[str, Any]
# An average file of ImageNet's training set, 138 GB of 1.28 million; CPU time of decoding and cropping one, and of writing
# checkpoints, were measured (docs/results.md, docs/architecture.md).
IMAGE_KB, TINY_LT = 108, 115_846
SAVE_S = {"LIFT": 0.015, "full": 0.9}


def cpu_ms_per_image() -> float:
    """Of decoding and cropping to 224 pixels by fastlift's threads, on one core: the median of the alternated rounds."""
    rounds = json.loads((RESULTS / "pipeline.json").read_text(encoding="utf-8"))["dali_on_cpus"]["rounds"]
    return statistics.median(ms for one in rounds for ms in one["torchvision_cpu_ms_per_image"])


def ms(seconds: float) -> str:
    """Milliseconds with about three digits."""
    return f"{1e3 * seconds:.1f}" if seconds >= 0.01 else f"{1e3 * seconds:.2f}"


def exchange_table() -> str:
    """What travels in a step, and how long it takes where nothing hides it."""
    places = [(8, SLOW, "8 GPUs, NVLink"), *((64, network, f"64 GPUs, {network.name}") for network in NETWORKS)]
    rows = [
        [training.name, f"{training.gradient_bytes / 1e6:,.1f}"]
        + [ms(model.all_reduce_s(training.gradient_bytes, gpus, network)) for gpus, network, _ in places]
        for training in (*TRAININGS, with_classes(100_000, False), with_classes(1_000_000, False))
    ]
    return table(["all-reduce (ms)", "MB", *(name for _, _, name in places)], rows)


def weak_table(images: int = 128) -> str:
    """The same number of images on every GPU."""
    rows = []
    for training in TRAININGS:
        one = model.step(training, images, 1, SLOW).seconds
        for network in NETWORKS:
            steps = [model.step(training, images, gpus, network).seconds for gpus in (8, 64, 1024)]
            rows.append([training.name, network.name, ms(one), *(f"{ms(s)} ({100 * one / s:.0f} %)" for s in steps)])
    head = [f"{images} images a GPU, ms a step", "network", "1 GPU", "8 GPUs", "64 GPUs", "1,024 GPUs"]
    return table(head, rows)


def strong_table() -> str:
    """One global batch for any number of GPUs."""
    counts = (1, 8, 16, 64, 128, 1024)
    rows = []
    for training, how in ((LIFT, "eager"), (CAPTURED, "CUDA graph")):
        for batch in (128, 512, 4096):
            speeds = [model.strong(training, batch, gpus, SLOW) for gpus in counts]
            shares = [f"{s / 1e3:,.1f} ({100 * s / speeds[0] / n:.0f} %)" for s, n in zip(speeds, counts, strict=True)]
            rows.append([f"{batch}, {how}", *shares])
    head = ["global batch, thousand images/s", *(f"{n:,} GPU{'s' if n > 1 else ''}" for n in counts)]
    return table(head, rows)


def classes_table(images: int = 64) -> str:
    """A classifier of many classes on every GPU, and split."""
    rows = []
    for classes in (100_000, 1_000_000):
        for sharded in (False, True):
            training = with_classes(classes, sharded)
            cells = [training.name]
            for gpus in (8, 64):
                found = model.step(training, images, gpus, SLOW)
                cells += [
                    f"{model.classifier_gib(classes, gpus, images, sharded):.2f}",
                    ms(max(found.kernels, found.launches)),
                    ms(found.exchange),
                ]
            rows.append(cells)
    names = ("GiB", "computing (ms)", "exchange (ms)")
    return table([f"{images} images a GPU", *(f"{n} GPUs: {name}" for n in (8, 64) for name in names)], rows)


def data_table() -> str:
    """What the images of one GPU, of a node and of many need."""
    decode, rows = cpu_ms_per_image() / 1e3, []
    for gpus in (1, 8, 80, 1000):
        for training in (LIFT, LARGE):
            speed = gpus * model.images_per_s(training, 128, 1, SLOW)
            cores = speed * decode
            rows.append(
                [f"{gpus:,}", training.name, f"{speed:,.0f}", f"{cores:,.0f}", f"{speed * IMAGE_KB / 1e6:,.2f}"]
            )
    return table(["GPUs", "", "images/s (and opened files/s)", "cores that decode", "GB/s read"], rows)


def failures_table(restart_s: float = 180.0) -> str:
    """Checkpoints and losses by the number of GPUs."""
    rows = []
    for gpus in (8, 100, 1000, 10_000):
        cells = [
            f"{gpus:,}",
            f"{model.hours_between_failures(gpus):,.0f}",
            f"{24 / model.hours_between_failures(gpus):.2f}",
        ]
        for save in SAVE_S.values():
            best = model.interval_s(save, gpus)
            cells += [f"{best / 60:,.1f}", f"{100 * model.lost_share(save, best, restart_s, gpus):.2f} %"]
        cells.append(f"{100 * model.lost_share(SAVE_S['LIFT'], 3600, restart_s, gpus):.1f} %")
        rows.append(cells)
    head = ["GPUs", "hours between failures", "failures a day"]
    head += [
        f"{name}: {what}" for name in ("LIFT", "full fine-tuning") for what in ("minutes between checkpoints", "lost")
    ]
    return table([*head, "lost with one an hour"], rows)


def measured(results: Path) -> str:
    """What ``python -m benchmarks.scaling`` found; a sentence for what it has not measured."""
    file = results / FILE
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    parts = [epochs_measured, steps_measured, buffers_measured]
    texts = [part(found[name]) for name, part in zip(("epoch", "step", "buffer"), parts, strict=True) if name in found]
    return (
        "\n\n".join(texts)
        if len(texts) == len(parts)
        else "**Not all was measured**: `python -m benchmarks.scaling` does."
    )


def epochs_measured(part: Row) -> str:
    """Equality and memory."""
    rows = [
        [
            processes,
            f"{one['largest_difference']:.1e}" if processes != "1" else "0",
            f"{one['accuracy']:.2f} %",
            ", ".join(f"{mib:,}" for mib in one["peak_mib"][0]),
        ]
        for processes, one in part["processes"].items()
    ]
    steps = part["processes"]["1"]["steps"]
    head = ["processes", f"largest relative difference of the {steps} losses of an epoch", "accuracy after it"]
    return f"{table([*head, 'peak memory of each process (MiB)'], rows)}\n\n{where(part)}"


def steps_measured(part: Row) -> str:
    """A whole step beside others."""
    rows = []
    for processes, one in part["processes"].items():
        low, high = one["ratio_quartiles"]
        cells = [processes, str(one["images_a_process"]), f"{one['alone_ms']:,.0f}", f"{one['together_ms']:,.0f}"]
        rows.append([*cells, f"{one['ratio']:.3f} ({low:.3f} to {high:.3f})"])
    head = ["processes", "images of each", "alone (ms)", "with the others (ms)", "ratio: median (quartiles)"]
    return f"{table(head, rows)}\n\n{where(part)}"


def buffers_measured(part: Row) -> str:
    """The sums alone."""
    rows = []
    for processes, sizes in part["processes"].items():
        for name, one in sizes.items():
            cells = [processes, f"{name}, {one['bytes'] / 1e6:,.1f} MB", f"{one['all-reduce_ms']:,.1f}"]
            low, high = one["ratio_quartiles"]
            rows.append([*cells, f"{one['all_ms']:,.1f}", f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})"])
    head = [
        "processes",
        "ViT-B/16, 1000 classes",
        "all-reduce (ms)",
        "all of the sums (ms)",
        "ratio: median (quartiles)",
    ]
    return f"{table(head, rows)}\n\n{where(part)}"


def where(part: Row) -> str:
    """The machine, and how busy it was."""
    machine, (before, after) = part["machine"], part["load_average"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']}, load average {before:.1f} before and "
        f"{after:.1f} after."
    )


def numbers() -> dict[str, str]:
    """The numbers of the text, by the names that stand in it."""
    speed, decode = model.images_per_s(LIFT, 128, 1, SLOW), cpu_ms_per_image() / 1e3
    day = 10_000_000 / 86_400
    evaluated = 128e3 / sum(CARDS[0].ms(part, 128) for part in evaluation_parts(LIFT.shape, 128))
    steps = -(-TINY_LT // 128) * 10
    one, eight = (steps * 128 / model.strong(LIFT, 128, gpus, SLOW) for gpus in (1, 8))
    graph = steps * 128 / model.strong(CAPTURED, 128, 8, SLOW)
    most = steps * 128 / model.strong(CAPTURED, 128, 1000, SLOW)
    node, failing = 8 * speed, model.hours_between_failures(1000)
    classes = with_classes(1_000_000, True)
    ten = 10 * 10_000_000  # images of ten epochs
    large = [1e3 * model.step(LARGE, 128 // gpus, gpus, SLOW).seconds for gpus in (1, 8)]
    cpu = json.loads((RESULTS / "end_to_end.json").read_text(encoding="utf-8"))["train"]["none"]["rows"]["fastlift"]
    found = { "cpu_step_s": 128 / cpu["images_per_s"], "nvlink": model.NVLINK_GB_PER_S, "nvlink_share": 100 * model.NVLINK_SHARE, "network_share": 100 * model.NETWORK_SHARE,
        "start": model.START_US, "ring": model.RING_US, "switch": model.NVLS_US, "hop": model.NETWORK_US,
        "ops": model.OPS, "eager_us": model.EAGER_US, "captured_us": model.CAPTURED_US,
        "eager_ms": 1e-3 * model.OPS * model.EAGER_US, "captured_ms": 1e-3 * model.OPS * model.CAPTURED_US,
        "lift_mb": LIFT.gradient_bytes / 1e6, "speed": speed, "decode_ms": 1e3 * decode,
        "cores": speed * decode, "node_gb": node * IMAGE_KB / 1e6, "image_kb": IMAGE_KB,
        "day": day, "day_gpu": 100 * day / speed, "day_cores": day * decode, "day_mb": day * IMAGE_KB / 1e3,
        "day_tb": 10e6 * IMAGE_KB / 1e9, "evaluated": evaluated, "day_evaluated": 100 * day / evaluated,
        "year": 365 * 10e6 / 1e9, "year_days": 365 * 10e6 / speed / 86_400, "steps": steps, "one_s": one, "eight_s": eight,
        "graph_s": graph, "most_s": most, "updates": -(-TINY_LT // 4096) * 10, "opens": 1000 * speed / 1e6,
        "thousand_gb": 1000 * speed * IMAGE_KB / 1e6, "failing": failing, "lift_interval": model.interval_s(SAVE_S["LIFT"], 1000),
        "million_gb": 8 * 1_000_000 * 768 / 1e9, "million_s": 8 * 1_000_000 * 768 / 1e9 / (0.688 / SAVE_S["full"]),
        "images": 128, "images_64": 64, "idle": 1000 - 128, "gpu_hours": model.GPU_HOURS_A_FAILURE,
        "year_tb": 365 * 10e6 * IMAGE_KB / 1e9, "shards": 10e6 * IMAGE_KB * 1e3 / 2**30,
        "node_share": 100 * node * IMAGE_KB / 1e6 / SLOW.gb_per_s, "ten_steps": ten / 128, "ten_hours": ten / speed / 3600,
        "ten_minutes": ten / model.strong(LIFT, 1024, 8, SLOW) / 60, "ten_updates": ten / 1024, "ten_opens": 10 * speed,
        "large_one": large[0], "large_eight": large[1], "hundred_gb": 100 * speed * IMAGE_KB / 1e6,
        "year_hours": 365 * 10e6 / node / 3600, "lift_ms": 1e3 * model.all_reduce_s(LIFT.gradient_bytes, 64, SLOW),
        "million_hops": 1e3 * model.step(classes, 64, 512, SLOW).exchange, "ranks_test": 50_000 / evaluated,
    }  # fmt: skip
    return {name: text.number(value) for name, value in found.items()} | {"card": model.CARD.name}


def document(results: Path = RESULTS) -> str:
    """All of docs/scaling.md."""
    tables = {
        "measured": measured(results), "exchange": exchange_table(), "weak": weak_table(), "strong": strong_table(),
        "classes": classes_table(), "data": data_table(), "failures": failures_table(),
    }  # fmt: skip
    return text.DOCUMENT.format_map({**numbers(), **{f"{name}_table": found for name, found in tables.items()}})


def main() -> None:
    """Write both."""
    draw(PLOT)
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
