"""Names that would steer a terminal or a page: shown as escapes wherever people read them, kept as they are in JSON."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from fixtures import COLOURS
from PIL import Image
from rich.text import Text

from fastlift.cli import main
from fastlift.reporting.console import PrintableConsole, Terminal
from fastlift.system.printing import printable

Streams = pytest.CaptureFixture[str]
HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "title \x1b]0;owned\x07",
    "two\nlines",
    "back\rover \x08\x7f",
    "tab\tbed",
    "C1 \x9b31m",
    "turned \u202egpj.exe",
    "wid\u200bth\ufeff",
    "line\u2028end",
    "byte \udcff",
    "[red]markup [bold]",
    "<script>alert(1)<!--",
    "$\\frac{1}{0}$ & \"'",
)


def controls(text: str) -> set[str]:
    """What of a text is not shown but carried out, line ends apart."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.mark.parametrize("text", [*HOSTILE, "plain", "", "é 漢字 – ✓", "\U000e0041 a tag"])
def test_escapes_are_those_of_json(text: str) -> None:
    shown = printable(text)
    assert not controls(shown)
    assert "\n" not in shown
    plain = text if text.isprintable() else ""
    assert printable(plain) == plain
    told = json.dumps({"name": text}, ensure_ascii=False)
    assert json.loads(printable(told)) == {"name": text}


def test_a_terminal_gets_its_own_sequences_alone(capsys: Streams) -> None:
    """On a terminal, where rich writes escape sequences of its own: the text's must not be among them."""
    console = PrintableConsole(force_terminal=True, color_system="standard", width=60)
    console.print(Text("good", style="red"), Text("bad \x1b[2J \u202e"))
    with Terminal(console).bar("[red]label\x1b[2J", 2) as bar:
        bar.update(1, "note \x1b]0;owned\x07 \x9b")
    Terminal(console).say("said\x1b[2J\rover")
    shown = capsys.readouterr().out
    assert "\x1b[31mgood" in shown  # its own colours are there
    assert "\x1b[2J" not in shown
    assert "\x1b]0" not in shown
    assert not {"\u202e", "\x9b"} & set(shown)
    assert "\\u001b[2J" in shown
    assert "[red]label" in shown
    assert "said\\u001b[2J" in shown


@pytest.fixture
def hostile_data(tmp_path: Path) -> Path:
    """A folder for each class under a hostile name, with images under hostile names, and two files that are none."""
    root = tmp_path / "root \x1b[2J [/x]"
    for number, name in enumerate(HOSTILE):
        for split, count in (("train", 2), ("test", 1)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (40, 40), COLOURS[number % len(COLOURS)]).save(folder / f"{k} {name[:9]}.jpg")
        (root / "train" / name / f"broken {name[:9]}.jpg").write_text("text")
    return root


def test_a_whole_run(tiny_clip: tuple[Path, Path], hostile_data: Path, tmp_path: Path, capsys: Streams) -> None:
    run = tmp_path / "run \x1b[2J\u202e [/y]"
    data = ["--dataset", "folder", "--data-root", str(hostile_data)]
    model = ["--model", str(tiny_clip[0]), "--pretrained", str(tiny_clip[1])]
    train = ["train", *data, *model, "--device", "cpu", "--epochs", "1", "--batch-size", "8", "--output", str(run)]
    images = [str(path) for path in sorted((hostile_data / "train").rglob("*.jpg"))]
    outputs = {}
    for name, arguments, code in (
        ("refused", train, 2),
        ("check", ["data", "check", *data], 1),
        ("check json", ["data", "check", *data, "--json"], 1),
        ("train", [*train, "--bad-images", "skip"], 0),
        ("train again", train, 2),
        ("stats json", ["data", "stats", "--json", *data], 2),
        ("evaluate", ["evaluate", str(run), "--tte", "fivecrop"], 0),
        ("predict", ["predict", str(run), *images], 1),
        ("predict json", ["predict", str(run), *images, "--json"], 1),
        ("report", ["report", str(run), "--output", str(tmp_path / "page \x1b.html")], 0),
        ("missing", ["predict", str(run), "no \x1b[2J such"], 2),
    ):
        assert main(arguments) == code, name
        told = capsys.readouterr()
        assert not controls(told.out), name
        assert not controls(told.err), name
        outputs[name] = told.out + told.err

    assert len(outputs["predict"].splitlines()) == len(images)  # a line an image, whatever its name holds
    for page in (run / "report.html", tmp_path / "page \x1b.html"):
        text = page.read_text(encoding="utf-8")
        assert not controls(text)
        assert text.count("<script") == 1  # the page's own
        assert "&lt;script&gt;" in text
        assert "two\\nlines" in text
        assert all(
            f">{part}<" in text for part in ("\\u001b[31mred\\u001b[0m", "turned \\u202egpj.exe", "byte \\udcff")
        )
    assert not controls((run / "bad_images.txt").read_text(encoding="utf-8").replace("\t", ""))
    # Programs get the names as they are: in the run's files and on stdout.
    assert sorted(json.loads((run / "data.json").read_text(encoding="utf-8"))["class_names"]) == sorted(HOSTILE)
    found = [json.loads(line) for line in outputs["predict json"].splitlines() if line.startswith("{")]
    assert {entry["path"] for entry in found} == {path for path in images if "broken" not in os.path.basename(path)}
    assert all(entry["class"] in HOSTILE for line in found for entry in line["top"])
    checked = json.loads(outputs["check json"])["problems"]
    assert len(checked) == len(HOSTILE)
    assert all(any(name[:9] in problem for problem in checked) for name in HOSTILE)
