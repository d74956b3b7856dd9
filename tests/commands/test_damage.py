"""Damaged files of a run: every command that reads one names it and what to do, without a traceback; --resume mends what it can."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files

from fastlift.cli import main
from fastlift.runs.claims import claimed

Streams = pytest.CaptureFixture[str]
Damage = Callable[[bytes], bytes]


def with_value(value: str) -> Damage:
    """The first value becomes another text."""
    return lambda whole: whole.replace(b": ", f": [{value}, ".encode(), 1).replace(b",\n", b"],\n", 1)


DAMAGES: dict[str, Damage] = {
    "empty": lambda whole: b"",
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "a byte that is no UTF-8": lambda whole: whole.replace(b'"', b'"\xff', 1),
    "nested without end": lambda whole: b'{"data": ' + b"[" * 200_000,
    "nested deeply": lambda whole: b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}",
    "400 digits": with_value("9" * 400),
    "5000 digits": with_value("9" * 5000),
    "a number beyond floats": with_value("1e999"),
    "NaN": with_value("NaN"),
    "a list": lambda whole: b"[]",
    "a word": lambda whole: b'"text"',
}


@pytest.fixture(scope="module")
def whole_run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained nothing, which is quick, and has all files."""
    run = tmp_path_factory.mktemp("whole") / "run"
    data = ["--dataset", "list", "--data-root", str(tiny_data), "--train-list", str(tiny_data / "train.txt")]
    data += ["--test-list", str(tiny_data / "test.txt"), "--class-names", str(tiny_data / "class_names.txt")]
    model = ["--model", str(tiny_clip[0]), "--pretrained", str(tiny_clip[1])]
    assert main(["zero-shot", *data, *model, "--output", str(run), "--device", "cpu"]) == 0
    return run


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def readers(run: Path, tiny_data: Path) -> dict[str, tuple[list[str], set[str]]]:
    """Commands, each with the files that it reads and cannot do without."""
    image, page = str(tiny_data / "test" / "class0" / "0.jpg"), str(run.parent / "page.html")
    known = {"config.json", "data.json"}
    return {
        "report": (["report", str(run), "--output", page], known | {"results.json"}),
        "evaluate": (["evaluate", str(run), "--device", "cpu"], known | {"results.json"}),
        "predict": (["predict", str(run), image, "--device", "cpu"], known),
        "export": (["export", str(run), "--format", "pt2"], known),
        "train --config": (["train", "--config", str(run / "config.json"), "--output", str(run)], {"config.json"}),
        "train --resume": (["train", "--resume", "--output", str(run)], {"config.json"}),
    }


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["config.json", "data.json", "results.json"])
def test_damage_is_named(file: str, damage: str, run: Path, tiny_data: Path, capsys: Streams) -> None:
    damaged = DAMAGES[damage]((run / file).read_bytes())
    (run / file).write_bytes(damaged)
    for name, (arguments, needed) in readers(run, tiny_data).items():
        if file in needed:
            capsys.readouterr()
            assert main(arguments) == 2, name
            told = capsys.readouterr().err
            assert file in told, name
            assert len(told) < 1000, name
            assert (run / file).read_bytes() == damaged, "what can be mended by hand is left"


@pytest.mark.parametrize("file", ["config.json", "data.json", "results.json"])
def test_wrong_types_are_named(file: str, run: Path, tiny_data: Path, capsys: Streams) -> None:
    """Each value in turn, at two levels, is of another type."""
    whole = json.loads((run / file).read_text())
    places: list[tuple[str, ...]] = [(name,) for name in whole]
    places += [(name, inner) for name, value in whole.items() if isinstance(value, dict) for inner in value]
    free = {("machine",), ("versions",), ("model", "tuner"), ("model", "layers"), ("model", "backbone_fingerprint")}
    for place in places:
        if place in free or (place[:1] in (("machine",), ("versions",)) and len(place) > 1):
            continue
        changed: Any = json.loads(json.dumps(whole))
        inner = changed
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = [[]] if isinstance(inner[place[-1]], dict) else {"wrong": []}
        (run / file).write_text(json.dumps(changed))
        command = "train --resume" if file == "config.json" else "report"
        capsys.readouterr()
        assert main(readers(run, tiny_data)[command][0]) == 2, place
        assert place[-1] in capsys.readouterr().err, place


@pytest.mark.parametrize("file", ["data.json", "results.json", "report.html", "metrics.jsonl"])
@pytest.mark.parametrize("damage", ["cut in half", "a byte that is no UTF-8", "nested without end", "deleted"])
def test_resuming_mends_what_can_be_made_again(
    file: str, damage: str, run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlift.reporting.html.render_report", lambda runs, **_: "a page")  # drawing takes a second
    whole = (run / file).read_bytes()
    if damage == "deleted" or file == "report.html":  # a page is for people: what is in it, nobody reads back
        (run / file).unlink()
    else:
        (run / file).write_bytes(DAMAGES[damage](whole))
    assert main(readers(run, tiny_data)["train --resume"][0]) == 0
    assert (run / file).is_file()
    for command in ("report", "train --resume"):
        assert main(readers(run, tiny_data)[command][0]) == 0
    if file == "data.json":
        assert json.loads((run / file).read_bytes()) == json.loads(whole)


def test_a_page_is_not_written_beside_a_process_that_writes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    """It was read before, and would come last. Elsewhere it may lie."""
    monkeypatch.setattr("fastlift.reporting.html.render_report", lambda runs, **_: "a page")
    monkeypatch.setattr("fastlift.commands.report.PATIENCE_S", 0.0)
    (run / "report.html").write_text("its own")
    with claimed(run, print):
        for more in ([], ["--output", str(run / "report.html")]):
            assert main(["report", str(run), *more]) == 2
            assert "in use by process" in (told := capsys.readouterr().err)
            assert "--output" in told
        assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert (run / "report.html").read_text() == "its own"
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == "a page"
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()
