"""The report page: complete, self-contained, safe with any name, for one run, several, unfinished and cut-short ones."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fastlift.errors import UserError
from fastlift.reporting.comparison import flat
from fastlift.reporting.figures import is_long_wait, slow_one
from fastlift.reporting.html import render_report, write_report
from fastlift.reporting.plots import _stairs, curve, waiting_plots
from fastlift.reporting.record import read_run
from fastlift.reporting.svg import SERIES, drawing, inline_svg

MakeRun = Callable[..., Path]  # the fixture of conftest.py

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def report(runs: list[Path], folder: Path) -> tuple[str, Page]:
    output = write_report(runs, folder / "report.html")
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert_self_contained(text, page)
    return text, page


def assert_self_contained(text: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import", re.sub(r"base64,[\w+/=\s]+", "", text))
    assert not {"link", "iframe", "object", "embed", "form"} & set(page.tags)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)  # one, inline, and named by the policy
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in text
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,"))
        assert not name.startswith("on")
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(ids)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def headings(text: str) -> list[str]:
    return re.findall(r"<h[23][^>]*>(?:<span[^>]*></span>)?([^<]*)</h[23]>", text)


def test_one_run(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    text, page = report([folder], tmp_path)
    metrics = read_run(folder).metrics()
    assert f"{metrics['accuracy']:.1f} %" in page.words
    for name in ("Many, medium, few", "Calibration", "The long tail", "Each class, by its training images",
                 "Training loss", "Accuracy while training", "Learning rate", "Throughput", "Waiting for data", "Classes",
                 "Worst mistakes", "Rarest classes", "Confusion matrix", "Where the answers go", "Most confused pairs", "Ways of testing", "Settings", "Machine", "Versions", "Epochs"):  # fmt: skip
        assert name in headings(text), name
    assert "61,000 parameters learn, 21,000 in the tuner" in page.words
    assert "training 1 min 21 s" in page.words
    assert page.tags.count("svg") == 10  # that of the classes for wide pages and for narrow ones
    assert "training.lr" in page.words
    assert "not ended" not in page.words
    worst = min(value for value in metrics["per_class"])
    assert f"{worst:.1f}" in page.words
    first = metrics["confusions"][0]
    assert f"striped red star {first['label']}" in page.words


def test_several_runs(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run("lift"), make_run("probe", seed=1, tail_bonus=-0.5, rank=8), make_run("going", finished=False)]
    text, page = report(folders, tmp_path)
    assert "3 runs compared" in page.words
    assert "What differs in the settings" in page.words
    assert re.search(r"model\.rank</td>\s*<td[^>]*>4</td>\s*<td[^>]*>8</td>\s*<td[^>]*>4</td>", text)
    assert "training.lr" not in text[: text.index('<h2 id="results"')]  # the same in all
    assert "This run has not ended" in page.words
    assert "Tested by fivecrop" in headings(text)
    assert "Tested by center" not in headings(text)  # those are the final figures, shown already
    for colour in SERIES[:3]:
        assert f"background: {colour}" in text
    better = f"{read_run(folders[0]).metrics()['accuracy']:.1f}"
    assert re.search(rf'Overall accuracy</th>\s*<td class="n[^"]*">{better}<', text)


def test_more_runs_than_colours(make_run: MakeRun, tmp_path: Path) -> None:
    text, _ = report([make_run(f"seed{seed}", seed=seed, classes=4) for seed in range(10)], tmp_path)
    chips = re.findall(r'<article class="panel">\s*<h2[^>]*><span class="chip" style="background: (#\w+)"', text)
    assert len(set(chips)) == len(chips) == 10


@pytest.mark.parametrize("cut", [0, 40, 4000])
def test_unfinished_and_truncated(make_run: MakeRun, tmp_path: Path, cut: int) -> None:
    _, page = report([make_run(finished=False, cut_bytes=cut)], tmp_path)
    assert "This run has not ended" in page.words
    assert "The figures are those of the last evaluation on the way" in page.words
    assert ("last line of metrics.jsonl is incomplete" in page.words) == (cut > 0)
    assert "Training loss" in page.words
    assert "Worst mistakes" not in page.words
    assert "last logged step" in page.words


def test_run_that_was_killed_before_it_logged(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(finished=False)
    (folder / "metrics.jsonl").write_text("")
    text, page = report([folder], tmp_path)
    assert "It has not been evaluated yet." in page.words
    assert "Training loss" not in page.words
    assert "– %" in page.words
    assert "The long tail" in headings(text)


def test_names_are_text_and_never_markup(make_run: MakeRun, tmp_path: Path) -> None:
    evil = ["<script>alert(1)</script>", 'quote" onload="x', "dollar $x_1$", "&amp;", "{{ 7 * 7 }}"]
    folder = make_run("<b>run</b> $a$", classes=5, class_names=evil)
    text, page = report([folder], tmp_path)
    assert text.count("<script") == 1
    assert "<script>alert" not in text
    assert "<b>" not in text
    for name in evil:
        assert name in page.words


def test_no_number_is_nan(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 101, "epoch": 4, "loss": NaN, "accuracy": Infinity}\n')
    _, page = report([folder], tmp_path)
    assert not re.search(r"\b(nan|inf)\b", page.words, flags=re.IGNORECASE)


def test_many_classes_stay_small(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(classes=2100)
    text, page = report([folder], tmp_path)
    assert len(text) < 900_000
    assert "The 1000 worst of 2100 classes" in page.words
    assert "data:image/png;base64," in text


@pytest.mark.parametrize("classes", [12, 20_000])
def test_stairs_are_the_counts(classes: int) -> None:
    """Of few classes exactly, of many to what is seen, in few steps."""
    counts = np.sort(np.random.default_rng(0).geometric(0.01, classes))[::-1].astype(np.float64)
    groups = np.repeat([0, 1, 2], [classes // 4, classes // 4, classes - 2 * (classes // 4)])
    starts, heights = _stairs(counts, groups)
    drawn = np.repeat(heights, np.diff([*starts, classes]))
    assert np.array_equal(drawn, counts) if classes < 1000 else np.allclose(drawn, counts, rtol=0.006)
    assert len(starts) < 1500
    assert {0, classes // 4, 2 * (classes // 4)} <= set(starts)


def test_missing_parts_of_the_results(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    results = json.loads((folder / "results.json").read_text())
    kept = {name: results["metrics"][name] for name in ("accuracy", "samples")}
    (folder / "results.json").write_text(json.dumps({"metrics": kept}))
    (folder / "data.json").unlink()
    text, page = report([folder], tmp_path)
    assert f"{kept['accuracy']:.1f} %" in page.words
    assert "Calibration" not in headings(text)


def test_group_boundaries_of_the_run_are_shown(make_run: MakeRun, tmp_path: Path) -> None:
    folder, other = make_run(), make_run("moved")
    for name in ("data.json", "results.json"):
        stored = json.loads((other / name).read_text())
        stored.get("data", stored)["group_boundaries"] = [1, 10_000]
        for metrics in (stored.get("metrics", {}), *stored.get("evaluations", {}).values()):
            metrics["group_boundaries"] = [1, 10_000]
        (other / name).write_text(json.dumps(stored))
    text = report([other], tmp_path)[0]
    assert "Many-shot classes (&gt; 10000 training images)" in text
    assert "medium (30)" in text  # in the long tail's plot
    together = report([folder, other], tmp_path)[0]
    assert "Many-shot classes</th>" in together


def test_output_is_replaced_whole(make_run: MakeRun, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "er" / "page.html"
    folder = make_run()
    assert write_report([folder], output) == output
    first = output.read_bytes()
    assert write_report([folder], output).read_bytes() == first  # the same run gives the same page
    with pytest.raises(UserError):
        write_report([tmp_path / "absent"], output)
    assert output.read_bytes() == first
    assert [path.name for path in output.parent.iterdir()] == ["page.html"]


def test_long_curves_are_means_of_blocks(make_run: MakeRun) -> None:
    folder = make_run(finished=False)
    lines = [json.dumps({"event": "step", "step": step, "loss": float(step % 2)}) for step in range(1, 4001)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    steps, losses = curve(read_run(folder), "loss")
    assert len(steps) == 400
    assert losses == pytest.approx(np.full(400, 0.5))
    assert steps[0] == pytest.approx(5.5)
    assert len(curve(read_run(folder), "accuracy")[0]) == 0


def test_throughput_leaves_out_the_line_without_a_pace(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert run.steps[0]["images_per_s"] == 0.0
    assert curve(run, "images_per_s")[1].min() > 200


def test_a_run_that_waited_for_data_says_so(make_run: MakeRun) -> None:
    """Of 81.2 s of training: 2 % are a fact, 25 % are a warning; a run without training shows neither."""
    few = render_report([read_run(make_run("few", data_wait_share=0.02))])
    many = render_report([read_run(make_run("many", data_wait_share=0.25))])
    assert "2 % of the training waited for data" in few
    assert "Waiting for data</h3>" in few
    assert 'class="warn">Training waited for images' not in few
    assert 'class="warn">Training waited for images in 25 % of its time' in many
    run = make_run("evaluated only")
    results = json.loads((run / "results.json").read_text())
    del results["timing"]["data_wait_share"]
    (run / "results.json").write_text(json.dumps(results))
    assert "waited for" not in render_report([read_run(run)])


def with_processes(run: Path, shares: list[float]) -> Path:
    """As if several processes had trained a run, each epoch with a little more waiting."""
    results = json.loads((run / "results.json").read_text())
    each = [{"rank": rank, "host": f"node{rank // 2}", "data_wait_share": share} for rank, share in enumerate(shares)]
    (run / "results.json").write_text(json.dumps(results | {"processes": each}))
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "epoch":
            event["data_wait_by_rank"] = [round(share + 0.01 * event["epoch"], 4) for share in shares]
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


def test_the_process_that_all_wait_for_is_named_and_drawn(make_run: MakeRun) -> None:
    run = with_processes(make_run("many", data_wait_share=0.3), [0.02, 0.03, 0.3, 0.01])
    page = render_report([read_run(run)])
    assert "in 30 % of its time, by the clock of process 2 on node1, for which the others wait (half of them" in page
    assert "wait for images in 2 % of the time or less)" in page
    assert "Waiting for data by process, many</h3>" in page
    assert "rank 2 on node1" in page
    even = render_report([read_run(with_processes(make_run("even", data_wait_share=0.3), [0.3, 0.29, 0.28]))])
    assert "Training waited for images in 30 % of its time: see" in even
    assert "by process" not in render_report([read_run(make_run("alone"))])


@pytest.mark.parametrize(("count", "finished"), [(2, True), (300, True), (3, False)])
def test_waiting_is_drawn_for_any_number_of_processes(make_run: MakeRun, count: int, finished: bool) -> None:
    run = with_processes(make_run("run"), [0.01 * (rank % 9) for rank in range(count)])
    if not finished:
        (run / "results.json").unlink()
    (drawn,) = waiting_plots([read_run(run)])
    assert "process (rank)" in drawn.svg
    assert ("rank 1 on node0" in drawn.caption) is finished
    assert f"Dot: {'the whole training' if finished else 'the last epoch'}." in drawn.caption
    assert len(drawn.caption) < 600


@pytest.mark.parametrize(
    ("shares", "named"),
    [([], False), ([0.5], False), ([0.1, 0.1], False), ([0.1, 0.2], True), ([0.1, 0.1, 0.19], False), ([0, 0, 0.2, 0], True)],
)  # fmt: skip
def test_who_is_much_slower_than_most(shares: list[float], named: bool) -> None:
    assert bool(slow_one(shares, ["host"] * len(shares))) is named


@pytest.mark.parametrize(("waited_s", "of_s", "long"), [(1.9, 5.0, False), (2.0, 20.0, True), (2.0, 20.1, False)])
def test_what_is_a_long_wait(waited_s: float, of_s: float, long: bool) -> None:
    assert is_long_wait(waited_s, of_s) is long


def test_flat_settings() -> None:
    settings = {"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": "text", "g": {}}
    assert flat(settings) == {"a.b": "1", "a.c.d": "null", "e": "[1, 2]", "f": "text", "g": "{}"}
    secret = {"data_root": "https://me:secret@host/x?sig=secret", "prompt": "what is it?"}
    assert flat(secret) == {"data_root": "https://***@host/x?***", "prompt": "what is it?"}


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_are_readable_in_light_and_dark() -> None:
    style = (Path(write_report.__code__.co_filename).parent / "report.css").read_text()
    for theme in style.split("prefers-color-scheme: dark")[:2]:
        named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        for background in (named["page"], named["panel"]):
            assert contrast(named["ink"], background) >= 7
            assert contrast(named["muted"], background) >= 4.5
            assert all(contrast(named[name], background) >= 4.5 for name in ("good", "bad", "accent"))
            assert all(contrast(colour, background) >= 3 for colour in SERIES)
        assert contrast(named["warn"], named["warn-panel"]) >= 4.5


def test_svg_takes_the_page_s_colours_and_font() -> None:
    with drawing() as (figure, axes):
        axes.plot([0, 1], [0, 1])
        axes.set_xlabel("a $b$ <c>")
        svg = inline_svg(figure, "key", 'about "it"')
    assert "var(--ink)" in svg
    assert "var(--line)" in svg
    assert "DejaVu" not in svg
    assert "a $b$ &lt;c&gt;" in svg
    assert 'aria-label="about &#34;it&#34;"' in svg
    assert "#0102" not in svg
