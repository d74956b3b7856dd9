"""The command line as a user meets it: exit codes, what goes to which stream, no traceback for a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import CLASS_NAMES

from fastlift.cli import COMMANDS, main

Files = tuple[Path, Path]
Streams = pytest.CaptureFixture[str]


@pytest.fixture
def flags(tiny_clip: Files, tiny_data: Path) -> list[str]:
    """Flags that name the tiny data set."""
    data = ["--dataset", "list", "--data-root", str(tiny_data), "--train-list", str(tiny_data / "train.txt")]
    return [*data, "--test-list", str(tiny_data / "test.txt"), "--class-names", str(tiny_data / "class_names.txt")]


@pytest.fixture
def model(tiny_clip: Files) -> list[str]:
    """Flags that name the tiny model."""
    return ["--model", str(tiny_clip[0]), "--pretrained", str(tiny_clip[1])]


def call(arguments: list[str]) -> int:
    """The exit code, whether the command returned it or tyro left with it."""
    try:
        return main(arguments)
    except SystemExit as left:
        return int(left.code or 0)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_names_all_commands(arguments: list[str], capsys: Streams) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Streams) -> None:
    assert call([command, "--help"]) == 0
    assert "usage: fastlift" in capsys.readouterr().out


def test_help_is_instant_because_it_loads_nothing() -> None:
    code = "import sys, fastlift.cli as c; c.main(['--help']); import fastlift; sys.exit(any(m in sys.modules for m in {}))"
    heavy = ("torch", "triton", "nvidia.dali", "open_clip", "tyro", "numpy")
    assert subprocess.run([sys.executable, "-c", code.format(heavy)], stdout=subprocess.DEVNULL).returncode == 0


def test_training_evaluating_predicting_reporting(
    flags: list[str], model: list[str], tiny_data: Path, tmp_path: Path, capsys: Streams
) -> None:
    run = tmp_path / "run"
    arguments = [*flags, *model, "--epochs", "1", "--batch-size", "8", "--output", str(run), "--device", "cpu"]
    assert call(["train", *arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["data"]["class_names"] == list(CLASS_NAMES)

    assert call(["train", *arguments]) == 2
    assert "--overwrite" in capsys.readouterr().err

    assert call(["evaluate", str(run), "--tte", "fivecrop", "--json", "--checkpoint", "epoch-001"]) == 0
    graded = json.loads(capsys.readouterr().out)
    assert list(graded) == ["fivecrop@epoch-001"]
    stored = json.loads((run / "results.json").read_text())["evaluations"]
    assert stored.keys() == {"center", "fivecrop@epoch-001"}

    picture, folder = tiny_data / "test" / "class0" / "0.jpg", tiny_data / "test" / "class1"
    assert call(["predict", str(run), str(picture), str(folder), "--json", "--top", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["0.jpg", "0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert all(len(line["top"]) == 2 and line["top"][0]["class"] in CLASS_NAMES for line in lines)

    assert call(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html")


def test_tables_for_people(flags: list[str], model: list[str], capsys: Streams) -> None:
    assert call(["zero-shot", *flags, *model, "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "Many-shot classes" in shown.out
    assert "6 classes" in shown.err


def test_a_config_file_reproduces_a_run(flags: list[str], model: list[str], tmp_path: Path, capsys: Streams) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = [*flags, *model, "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    assert call(["train", *arguments, "--output", str(first), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["metrics"]
    assert call(["train", "--config", str(first / "config.json"), "--output", str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == expected


def test_predictions_go_on_after_broken_files(
    flags: list[str], model: list[str], tiny_data: Path, tmp_path: Path, capsys: Streams
) -> None:
    run = tmp_path / "run"
    assert call(["zero-shot", *flags, *model, "--output", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()
    good = tmp_path / "good.jpg"
    good.write_bytes((tiny_data / "test" / "class0" / "0.jpg").read_bytes())
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:300])
    (tmp_path / "text.png").write_text("not a picture")
    assert call(["predict", str(run), str(tmp_path / "cut.jpg"), str(good), str(tmp_path / "text.png")]) == 1
    shown = capsys.readouterr()
    assert "good.jpg: " in shown.out
    assert "cut.jpg: " in shown.err
    assert "text.png: " in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train"),
        (["train", "--dataset", "imagenet"], "did you mean imagenet_lt"),
        (["train", "--recipe", "lfit"], "did you mean lift"),
        (["train", "--dataset", "imagenet_lt"], "How to get ImageNet-LT"),
        (["train", "--resume"], "--output"),
        (["train", "--resume", "--output", "nowhere"], "not a run folder"),
        (["train", "--config", "nowhere.json"], "does not exist"),
        (["train", "--device", "cuda:7"], "device"),
        (["evaluate", "nowhere"], "not a run folder"),
        (["predict", "nowhere", "nothing.jpg"], "no such file"),
        (["report"], "at least one run"),
        (["data", "chek"], "did you mean check"),
        (["data", "check", "--dataset", "shapes"], "did you mean shapes_lt"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(arguments) == 2
    shown = capsys.readouterr()
    assert message.lower() in shown.err.lower()
    assert "Traceback" not in shown.err + shown.out
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


@pytest.mark.parametrize(
    "arguments", [["train", "--lrr", "1"], ["train", "--batch-size", "many"], ["train", "--micro-batch", "3"]]
)
def test_flags_that_are_refused_by_the_parser(arguments: list[str], capsys: Streams) -> None:
    assert call(arguments) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out


def test_checking_data(flags: list[str], tiny_data: Path, tmp_path: Path, capsys: Streams) -> None:
    assert call(["data", "check", *flags, "--decode"]) == 0
    assert "fine" in capsys.readouterr().out
    assert call(["data", "stats", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 6
    broken = tmp_path / "train.txt"
    broken.write_text((tiny_data / "train.txt").read_text() + "train/class0/none.jpg 0\n")
    changed = [str(broken) if flag.endswith("train.txt") else flag for flag in flags]
    assert call(["data", "check", *changed]) == 1
    assert "none.jpg" in capsys.readouterr().out
