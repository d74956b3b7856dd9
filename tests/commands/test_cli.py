"""The command line as a user meets it: exit codes, what goes to which stream, no traceback for a mistake."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fixtures import CLASS_NAMES, Files

from fastlift.cli import COMMANDS, main
from fastlift.commands import bench, data
from fastlift.commands.base_config import base_config

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


LEAVES = [*(set(COMMANDS) - {"data", "bench"}), *(f"data {action}" for action in data.ACTIONS)]
LEAVES += [f"bench {action}" for action in bench.ACTIONS]


@pytest.mark.parametrize("command", sorted(LEAVES))
def test_help_teaches(command: str, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples that run this command with flags that it has, and a text for each flag."""
    monkeypatch.setenv("COLUMNS", "100")  # one column of flags
    assert call([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    examples = [line.strip() for line in shown.split("examples:")[1].splitlines()]
    own = [line for line in examples if line.startswith(f"fastlift {command}")]
    assert own
    pieces = re.split(r"\n\W (--[a-z-]+)", shown)  # text, flag, text, flag, ...
    flags, texts = pieces[1::2], pieces[2::2]
    assert set(re.findall(r" (--[a-z-]+)", " ".join(own))) <= set(flags)
    for flag, text in zip(flags, texts, strict=True):
        assert not re.match(r"\W*(\S+\s+)?\W*\(default", text), f"{flag} has no text"


def test_help_is_instant_because_it_loads_nothing() -> None:
    code = "import sys, fastlift.cli as c; c.main(['--help']); import fastlift; sys.exit(any(m in sys.modules for m in {}))"
    heavy = ("torch", "triton", "nvidia.dali", "open_clip", "tyro", "numpy")
    assert subprocess.run([sys.executable, "-c", code.format(heavy)], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    "command", ["report", "doctor", "data", "data prepare", "data check", "data stats", "data pack"]
)
def test_help_of_commands_without_a_model_loads_no_torch(command: str) -> None:
    code = "import sys, fastlift.cli as c\ntry: c.main([*{}, '--help'])\nfinally: sys.exit('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code.format(command.split())], capture_output=True, text=True)
    assert "usage" in told.stdout
    assert told.returncode == 0


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
    evaluated = json.loads(capsys.readouterr().out)
    assert list(evaluated) == ["fivecrop@epoch-001"]
    stored = json.loads((run / "results.json").read_text())["evaluations"]
    assert stored.keys() == {"center", "fivecrop@epoch-001"}

    image, folder = tiny_data / "test" / "class0" / "0.jpg", tiny_data / "test" / "class1"
    assert call(["predict", str(run), str(image), str(folder), "--json", "--top", "2"]) == 0
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
    (tmp_path / "text.png").write_text("not an image")
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
        (["train", "--lr", "nan"], "lr: expected a finite number"),
        (["train", "--batch-size", "0"], "batch_size: expected more than 0"),
        (["train", "--workers", "0"], "workers: expected a whole number from 1"),
        (["train", "--threads", "0"], "threads: expected a whole number from 1"),
        (["train", "--threads", "5000"], "threads: expected a whole number from 1"),
        (["train", "--seed", str(2**64)], "seed: expected a whole number from 0"),
        (["train", "--seed", "-1"], "seed: expected a whole number from 0"),
        (["train", "--epochs", str(10**30)], "epochs: expected a whole number from"),
        (["train", "--scale", "inf"], "scale: expected a finite number"),
        (["train", "--expand", "-1"], "expand: expected a whole number from 0 to 4096"),
        (["train", "--image-size", "7"], "image_size: shapes-clip needs 8 pixels"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"training": {"lr": "x"}}', "lr: expected a number, got 'x'"),
        (b'{"training": {"lr": NaN}}', "NaN is no number in JSON"),
        (b'{"training": {"epochs": 1.0}}', "epochs: expected a whole number"),
        (b'{"model": {"tuner": "full"}}', "tuner: expected a list"),
        (b'{"training": {"lrr": 1}}', "did you mean lr"),
        (b'{"training": ', "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[]", "expected a JSON object"),
    ],
)
def test_broken_config_files(content: bytes, message: str, tmp_path: Path, capsys: Streams) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    assert call(["train", "--config", str(file)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert str(file) in shown
    assert call(["train", "--config", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_flags_that_contradict_each_other(tmp_path: Path, capsys: Streams) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert call(["train", "--config", str(tmp_path / "config.json"), "--recipe", "lift_plus"]) == 2
    assert "choose one" in capsys.readouterr().err
    assert call(["train", "--resume", "--overwrite", "--output", str(tmp_path)]) == 2
    assert "choose one" in capsys.readouterr().err
    assert call(["train", "--output"]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_model_chosen_over_a_config_file_brings_its_own_weights(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model": {"model": "shapes-clip"}}')
    chosen = base_config(["--config", str(file), "--model", "ViT-B-16-quickgelu"]).model
    assert (chosen.model, chosen.pretrained) == ("ViT-B-16-quickgelu", "openai")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied", "x")]
)
def test_what_the_system_refuses_is_no_traceback(
    error: OSError, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("fastlift.commands.doctor.run", fail)
    assert call(["doctor"]) == 1
    assert str(error.strerror) in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("buffered", [True, False])
def test_no_room_for_what_is_printed_is_told(buffered: bool) -> None:
    """Python, which flushes at its end, had the last word: 'Exception ignored', and exit code 120."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "fastlift", "--version"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert (ended.returncode, ended.stderr) == (1, b"fastlift: No space left on device\n")


def test_no_more_threads_is_no_traceback(capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr("fastlift.commands.doctor.run", lambda arguments: threading.Thread().start())
    assert call(["doctor"]) == 1
    assert "no more threads may be started here; raise the limit" in capsys.readouterr().err


def test_names_that_are_markup_or_no_text(flags: list[str], model: list[str], tiny_data: Path, tmp_path: Path) -> None:
    """Brackets are no markup, and bytes that are no UTF-8 do not end the work: in paths, in class names, in both streams."""
    root, odd = tmp_path / "photos [/x]", b"caf\xe9 [bold]"
    for split in ("train", "test"):
        for folder in (odd, b"tea"):
            shutil.copytree(tiny_data / "train" / "class0", root / split / os.fsdecode(folder))
    (root / "train" / "tea" / "broken.jpg").write_text("text")
    output = tmp_path / "run [/y]"
    data = ["--dataset", "folder", "--data-root", str(root), "--bad-images", "skip", "--device", "cpu"]
    arguments = ["train", *data, *model, "--epochs", "1", "--batch-size", "8", "--output", str(output)]
    code = "import sys; from fastlift.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for command in (arguments, ["predict", str(output), str(root / "test"), "--json"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(os.fsencode(line["path"]).count(odd) for line in lines) == len(lines) / 2
    assert os.fsencode(json.loads((output / "data.json").read_text())["class_names"][0]) == odd
    assert (output / "bad_images.txt").read_text().startswith("folder/train\ttrain/tea/broken.jpg\tis text")
    assert json.loads((output / "results.json").read_text())["replaced_images"] == 1


def test_results_of_a_run_that_cannot_be_written(
    flags: list[str], model: list[str], tmp_path: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert call(["zero-shot", *flags, *model, "--output", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()

    def refuse(path: Path, value: object, *, parents: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fastlift.engine.evaluate.write_json", refuse)
    assert call(["evaluate", str(run), "--json", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["center"]["samples"] == 24
    assert "not kept" in shown.err


def test_damaged_files_of_a_run(flags: list[str], model: list[str], tmp_path: Path, capsys: Streams) -> None:
    run = tmp_path / "run"
    arguments = [*flags, *model, "--epochs", "1", "--batch-size", "16", "--output", str(run), "--device", "cpu"]
    assert call(["train", *arguments]) == 0
    for name in ("results.json", "data.json", "checkpoints/epoch-001.safetensors", "config.json"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[: len(whole) // 2])
        capsys.readouterr()
        code = 1 if "checkpoint" in name else 2  # without any checkpoint that holds, the work itself fails
        assert call(["evaluate", str(run), "--device", "cpu"]) == code, name
        assert Path(name).name in capsys.readouterr().err
        (run / name).write_bytes(whole)


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 0.01)
    monkeypatch.setattr("fastlift.system.progress.time.monotonic", lambda: next(clock))
    tell = data.progress_lines()
    for done in range(400):
        tell("drawing", done, 400)
    assert 1 <= len(capsys.readouterr().err.splitlines()) <= 3
