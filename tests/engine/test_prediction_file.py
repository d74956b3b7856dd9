"""``fastlift predict``: any number of images from any place, records in every format, gone on with behind the last whole one."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import CLASS_NAMES, Files, tiny_recipe
from PIL import Image
from several import Group

import fastlift
from fastlift import cli
from fastlift.config import Config
from fastlift.data.image_sources import FoundImage
from fastlift.data.index.replacements import BadImageSettings
from fastlift.engine import predict as engine_predict
from fastlift.engine import prediction_file
from fastlift.engine.predict import Wanted, predict_images
from fastlift.evaluation import predict as evaluation_predict
from fastlift.models.prediction.result import AnswerSettings, Prediction
from fastlift.reporting import parquet, predictions

Streams = pytest.CaptureFixture[str]
BAD = (1, 3, 7)  # of the images below: no image, cut, breaks only when it is decoded


@pytest.fixture(scope="module")
def run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny_recipe(tiny_clip, tiny_data, epochs=0, amp="fp32")
    return fastlift.train(settings, output=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture(scope="module")
def images(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12, with names that CSV quotes; three of them cannot be used."""
    folder = tmp_path_factory.mktemp("images")
    for number, source in enumerate(sorted((tiny_data / "test").rglob("*.jpg"))[::2]):
        file = folder / f'{number:02d} "a", b\nc é.png'
        Image.open(source).save(file)
        whole = file.read_bytes()
        if number in BAD:
            changed = {1: b"no image", 3: whole[:99], 7: whole[: len(whole) // 2] + whole[-12:]}
            file.write_bytes(changed[number])
    return folder


def call(*arguments: object) -> int:
    return cli.main(["predict", *map(str, arguments), "--device", "cpu"])


def records(file: Path) -> list[dict[str, Any]]:
    """What a file of any format says, as ``Prediction.to_dict`` has it."""
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(file).to_pylist()
    told = []
    for row in rows:
        if row["problem"]:
            told.append({"path": row["path"], "problem": row["problem"]})
            continue
        pairs = [(row[f"class_{k}"], row[f"probability_{k}"]) for k in (1, 2)]
        top = [{"class": name, "probability": float(value)} for name, value in pairs]
        told.append({"path": row["path"], "answer": row["answer"] or None, "top": top})
    return told


FORMATS = ("jsonl", "csv", "parquet", "txt")


@pytest.fixture(scope="module")
def wholes(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is written without an interruption, in each format."""
    folder = tmp_path_factory.mktemp("wholes")
    files = {format: folder / f"out.{format}" for format in FORMATS}
    for file in files.values():
        assert call(run, images, "--output", file, "--top", 2, "--threshold", 0.23) == 1
        assert [path.name for path in sorted(folder.iterdir())] == sorted(
            {other.name for other in files.values() if other.exists()}
        ), "nothing hidden is left"
    return files


def test_every_format_has_a_record_of_every_image(run: Path, images: Path, wholes: dict[str, Path]) -> None:
    found = records(wholes["jsonl"])
    files = sorted(images.iterdir())
    assert [record["path"] for record in found] == list(map(str, files))
    assert [number for number, record in enumerate(found) if "problem" in record] == list(BAD)
    model = fastlift.load_run(run)
    for record, file in zip(found, files, strict=True):
        if "problem" not in record:
            one = model.predict(file, top=2)
            assert [entry["class"] for entry in record["top"]] == list(one.names)
            assert [entry["probability"] for entry in record["top"]] == pytest.approx(one.probabilities, abs=1e-5)
            assert record["answer"] == (one.names[0] if one.probabilities[0] >= 0.23 else None)
    answers = {record.get("answer") for record in found}
    assert None in answers
    assert answers & set(CLASS_NAMES), "the threshold lies among the probabilities"
    assert records(wholes["csv"]) == found
    assert records(wholes["parquet"]) == found
    lines = wholes["txt"].read_text().splitlines()
    assert len(lines) == len(found)
    assert sum(": none of these (" in line for line in lines) == sum("top" in r and r["answer"] is None for r in found)
    assert sum(": no prediction: " in line for line in lines) == len(BAD)


class Killed(BaseException):
    """Stands for a kill: nothing in fastlift waits for it."""


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch, end: Any = Killed) -> None:
    """The next predictions end after so many; each is written at once."""

    def some(*arguments: Any) -> Iterator[Prediction]:
        for number, one in enumerate(predict_images(*arguments)):
            if number == count:
                monkeypatch.undo()
                end() if end is not Killed else None
                raise Killed
            yield one

    monkeypatch.setattr(prediction_file, "predict_images", some)
    monkeypatch.setattr(prediction_file, "RECORDS", 1)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("after", [0, 5])
def test_a_killed_command_goes_on_behind_the_last_whole_record(
    format: str,
    after: int,
    run: Path,
    images: Path,
    wholes: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Streams,
) -> None:
    file = tmp_path / f"out.{format}"
    asked = (run, images, "--output", file, "--top", 2, "--threshold", 0.23)
    killed_after(after, monkeypatch)
    with pytest.raises(Killed):
        call(*asked)
    if format != "parquet" and after:  # half a record, as a kill may leave it
        whole = wholes[format].read_bytes()
        assert whole.startswith(file.read_bytes())
        file.write_bytes(whole[: file.stat().st_size + 30])
    assert call(*asked) == 2
    assert "unfinished: --resume goes on" in capsys.readouterr().err
    assert call(*asked, "--resume") == 1
    told = capsys.readouterr().err
    assert (f"has {after} records already" in told) == (after > 0)
    assert f"12 images, {len(BAD)} of them without a prediction" in told
    assert file.read_bytes() == wholes[format].read_bytes() or format == "parquet"
    assert format == "txt" or records(file) == records(wholes[format])
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert call(*asked, "--resume") == 0
    assert "complete: nothing to do" in capsys.readouterr().err
    assert call(*asked) == 2
    assert "exists; use --overwrite" in capsys.readouterr().err


def test_what_is_gone_on_with_is_in_the_same_batches(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 images, 10 can be read, in parts of 7 and 5 with batches of 2: so each has the bits of an uninterrupted command."""
    plain, sizes = evaluation_predict.mean_logits, list[int]()

    def noting(model: Any, given: Any) -> Any:
        sizes.append(len(given))
        return plain(model, given)

    def small() -> None:
        monkeypatch.setattr(evaluation_predict, "mean_logits", noting)
        monkeypatch.setattr(engine_predict, "FIRST_IMAGES", 7)
        monkeypatch.setattr(engine_predict, "MOST_IMAGES", 7)

    small()
    whole, file = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert call(run, images, "--output", whole, "--eval-batch", 2) == 1
    assert sizes == [2, 2, 1, 2, 2, 1], "of the first part 5 can be read, of the second all, one of which breaks later"
    for after, expected in ((3, [2, 1, 2, 2, 1]), (7, [2, 2, 1]), (9, [2, 1])):
        file.unlink(missing_ok=True)
        killed_after(after, monkeypatch)
        small()
        with contextlib.suppress(Killed):
            call(run, images, "--output", file, "--eval-batch", 2)
        monkeypatch.undo()
        sizes.clear()
        small()
        assert call(run, images, "--output", file, "--eval-batch", 2, "--resume") == 1
        assert sizes == expected, after
        assert file.read_bytes() == whole.read_bytes()


def test_a_signal_keeps_what_was_predicted_and_tells_the_way_on(
    run: Path, images: Path, wholes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    for file in (tmp_path / "out.jsonl", tmp_path / "out.parquet"):
        asked = (run, images, "--output", file, "--top", 2, "--threshold", 0.23)
        killed_after(5, monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
        monkeypatch.setattr(prediction_file, "RECORDS", 1000)
        assert call(*asked) == 128 + signal.SIGTERM
        told = capsys.readouterr().err
        assert "SIGTERM: stopped; the same command with --resume goes on" in told
        assert call(*asked, "--resume") == 1
        assert "has 5 records already" in capsys.readouterr().err
        assert records(file) == records(wholes["jsonl"])


def test_parquet_has_the_escapes_of_names_that_are_no_unicode(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    name, out, parts = "n\udcff.jpg", tmp_path / "out.parquet", tmp_path / "parts"
    file = parquet.ParquetFile(out, parts, 1)
    file.write([Prediction(name, ("é",), (0.5,), (0,))])
    file.finish()
    assert pq.read_table(out).to_pylist()[0] == {
        "path": "n\\udcff.jpg", "answer": "é", "class_1": "é", "probability_1": 0.5, "problem": None
    }  # fmt: skip
    assert parquet.ParquetFile(out, parts, 1).follows(name)


@pytest.mark.parametrize("kind", [predictions.LineFile, parquet.ParquetFile])
def test_a_signal_amid_the_writing_has_nothing_written_twice(
    kind: Any, run: Path, images: Path, wholes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes behind the second write, before anybody knows that this one is done."""
    plain, writes = kind.write, [0]

    def signalled(self: Any, some: Any) -> None:
        plain(self, some)
        writes[0] += 1
        if writes[0] == 2:
            signal.raise_signal(signal.SIGTERM)

    file = tmp_path / ("out.jsonl" if kind is predictions.LineFile else "out.parquet")
    asked = (run, images, "--output", file, "--top", 2, "--threshold", 0.23)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "write", signalled)
        patch.setattr(prediction_file, "RECORDS", 3)
        assert call(*asked) == 128 + signal.SIGTERM
    assert call(*asked, "--resume") == 1
    assert records(file) == records(wholes["jsonl"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--top", 1), "begun with other settings (top was 2, is 1)"),
        (("--tte", "fivecrop"), "begun with other settings (tte was 'none', is 'fivecrop')"),
        (("--format", "text"), "begun with other settings (format was 'jsonl', is 'text')"),
    ],
)
def test_other_settings_do_not_go_on(
    changed: tuple[object, ...],
    message: str,
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Streams,
) -> None:
    file = tmp_path / "out.jsonl"
    killed_after(3, monkeypatch)
    with pytest.raises(Killed):
        call(run, images, "--output", file, "--top", 2)
    before = file.read_bytes()
    assert (
        call(run, images, "--output", file, *(("--top", 2) if "--top" not in changed else ()), *changed, "--resume")
        == 2
    )
    assert message in capsys.readouterr().err
    assert file.read_bytes() == before


def test_other_images_do_not_go_on_and_overwrite_starts_again(
    run: Path, images: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    for format in FORMATS[:3]:
        file = tmp_path / f"out.{format}"
        killed_after(3, monkeypatch)
        with pytest.raises(Killed):
            call(run, images, "--output", file)
        assert not descriptors_of(file)
        capsys.readouterr()
        assert call(run, tiny_data / "test" / "class0", "--output", file, "--resume") == 2
        assert not descriptors_of(file)
        assert "begun with other images: its record 3 is not that of" in capsys.readouterr().err
        assert call(run, tiny_data / "test" / "class0" / "0.jpg", "--output", file, "--resume") == 2
        assert "is not that of any image" in capsys.readouterr().err
        assert call(run, tiny_data / "test" / "class0", "--output", file, "--overwrite") == 0
        capsys.readouterr()
        assert _count(file) == 4


def descriptors_of(file: Path) -> list[str]:
    """What this process has open of a file: who catches the error and goes on must not run out of descriptors."""
    links = Path("/proc/self/fd")
    if not links.exists():
        pytest.skip("this system does not tell which files are open")
    return [
        link.name for link in links.iterdir() if link.is_symlink() and os.path.realpath(link) == str(file.resolve())
    ]


def _count(file: Path) -> int:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return len(pq.read_table(file))
    return len(file.read_text().splitlines()) - (file.suffix == ".csv")


def test_a_file_that_another_process_writes_is_left_alone(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    file = tmp_path / "out.jsonl"
    killed_after(3, monkeypatch)
    with pytest.raises(Killed):
        call(run, images, "--output", file)
    with open(tmp_path / ".out.jsonl.unfinished") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        for way in ("--resume", "--overwrite"):
            assert call(run, images, "--output", file, way) == 2
            assert "is being written by another process" in capsys.readouterr().err
    assert len(records(file)) == 3


def test_a_damaged_record_is_no_place_to_go_on_from(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    file = tmp_path / "out.jsonl"
    killed_after(3, monkeypatch)
    with pytest.raises(Killed):
        call(run, images, "--output", file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][5:], lines[2]]) + "\n")
    assert call(run, images, "--output", file, "--resume") == 2
    assert "record 2 is none of this format" in capsys.readouterr().err


@pytest.mark.parametrize("first", [1, 3, 1024])
def test_the_size_of_the_parts_changes_nothing(
    first: int, run: Path, images: Path, wholes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all images of a part are broken, so that none of them can stand in for another."""
    monkeypatch.setattr(engine_predict, "FIRST_IMAGES", first)
    monkeypatch.setattr(engine_predict, "MOST_IMAGES", first)
    assert call(run, images, "--output", tmp_path / "out.jsonl", "--top", 2, "--threshold", 0.23) == 1
    found, wanted = records(tmp_path / "out.jsonl"), records(wholes["jsonl"])
    for one, other in zip(found, wanted, strict=True):
        assert (one["path"], one.get("answer"), one.get("problem")) == (
            other["path"], other.get("answer"), other.get("problem"),
        )  # fmt: skip


@pytest.mark.parametrize("told", [True, False])
def test_broken_images_alone(
    run: Path, images: Path, tmp_path: Path, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    """Their headers are whole: they break when they are decoded, and there is nothing else."""
    if not told:  # a thread may find the last one before others have told of theirs
        build = BadImageSettings.build
        monkeypatch.setattr(BadImageSettings, "build", lambda settings, index, on_bad: build(settings, index))
    whole = sorted(images.iterdir())[7].read_bytes()
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(whole)
    assert call(run, tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sorted(line.split(": ")[1] for line in printed.err.splitlines()) == [
        str(tmp_path / f"{n}.png") for n in range(3)
    ]


def test_images_are_taken_as_they_are_needed(run: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an endless list, no more than the part that is predicted and the next one."""
    monkeypatch.setattr(engine_predict, "FIRST_IMAGES", 4)
    monkeypatch.setattr(engine_predict, "MOST_IMAGES", 8)
    file, taken = str(sorted(images.iterdir())[0]), []

    def endless() -> Iterator[FoundImage]:
        while True:
            taken.append(file)
            yield FoundImage(file, file)

    predictions = predict_images(Wanted(run, None, endless(), AnswerSettings()), Config().override(device="cpu"))
    names = [next(predictions).names for _ in range(30)]
    predictions.close()  # type: ignore[attr-defined]
    assert len(set(names)) == 1
    assert 30 <= len(taken) <= 30 + 3 * 8


def test_shards_lists_and_patterns(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    """The members of shards as the files they were made of, beside files and what is damaged."""
    files = sorted(images.iterdir())
    for number in range(2):
        with tarfile.open(tmp_path / f"part-{number}.tar", "w") as tar:
            for place, file in enumerate(files[number::2]):
                tar.add(file, f"{place}.png")
    shard = (tmp_path / "part-1.tar").read_bytes()
    (tmp_path / "part-2.tar").write_bytes(shard[:700])

    (tmp_path / "plain.png").write_bytes(files[0].read_bytes())
    (tmp_path / "list.txt").write_text("plain.png\ngone.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert call(run, "part-{0..2}.tar", "p*.png", "--list", "list.txt", "--output", "out.jsonl") == 1
    found = records(Path("out.jsonl"))
    direct = {record["path"]: record for record in _direct(run, images, tmp_path)}
    order = [*files[0::2], *files[1::2]]
    for record, file in zip(found[:12], order, strict=True):
        wanted = direct[str(file)]
        assert record.get("problem") == wanted.get("problem")
        assert [entry["class"] for entry in record.get("top", [])] == [one["class"] for one in wanted.get("top", [])]
    assert [record["path"] for record in found[12:]] == ["part-2.tar", "plain.png", "plain.png", "gone.jpg"]
    assert found[0]["path"] == "part-0.tar/0.png"
    assert found[12]["problem"].startswith("is truncated")
    assert found[15]["problem"] == "missing"
    assert found[13]["top"] == found[14]["top"]
    capsys.readouterr()


def _direct(run: Path, images: Path, tmp_path: Path) -> list[dict[str, Any]]:
    assert call(run, images, "--output", tmp_path / "direct.jsonl") == 1
    return records(tmp_path / "direct.jsonl")


def test_csv_on_stdout(run: Path, tiny_data: Path, capsys: Streams) -> None:
    assert call(run, tiny_data / "test" / "class0", "--format", "csv", "--top", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path,answer,class_1,probability_1,problem"
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["gone.jpg"], "no such file or folder: gone.jpg"),
        (["--list", "gone.txt"], "gone.txt cannot be read"),
        (["empty"], "no images in empty"),
        ([], "name at least one image"),
        (
            ["one.jpg", "--output", "out.xml"],
            "out.xml: its ending tells no format; give --format text|jsonl|csv|parquet",
        ),
        (["one.jpg", "--output", "empty", "--format", "csv"], "empty is a folder"),
        (["one.jpg", "--resume"], "--resume is about a file: name it with --output"),
        (["one.jpg", "--overwrite"], "--overwrite is about a file: name it with --output"),
        (["one.jpg", "--format", "parquet"], "--format parquet needs a file"),
        (["one.jpg", "--json", "--format", "csv"], "contradicts --format csv"),
        (["one.jpg", "--output", "out.csv", "--resume", "--overwrite"], "contradict each other"),
        (["one.jpg", "--output", "pipe", "--format", "csv", "--overwrite"], "pipe is a device or a pipe"),
        (["--list", "one.txt", "--output", "one.txt", "--overwrite"], "one.txt is a list of images that is read"),
        (
            ["--list", "one.txt", "--output", "./x/../one.txt", "--overwrite"],
            "one.txt is a list of images that is read",
        ),
        (["one.jpg", "--threshold", "1.5"], "threshold: expected"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(
    flags: list[str], message: str, run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Streams,
) -> None:  # fmt: skip
    def load(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(engine_predict, "load_run", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.jpg").write_bytes((tiny_data / "test" / "class0" / "0.jpg").read_bytes())
    (tmp_path / "one.txt").write_text("one.jpg\n")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    assert call(run, *flags) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_parquet_without_pyarrow_is_one_sentence(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert call(run, images, "--output", tmp_path / "out.parquet") == 2
    assert capsys.readouterr().err == "fastlift: Parquet files need pyarrow: pip install 'fastlift[parquet]'\n"


def fastlift_command(arguments: list[str]) -> None:
    sys.exit(cli.main(arguments))


def test_several_processes_write_what_one_does(
    run: Path, images: Path, wholes: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "out.jsonl"
    asked = ["predict", str(run), str(images), "--output", str(file), "--top", "2", "--threshold", "0.23"]
    asked += ["--eval-batch", "2", "--device", "cpu"]
    outcomes = Group(tmp_path / "said", 2, fastlift_command, (asked,)).join()
    assert [outcome.code for outcome in outcomes] == [1, 0]
    found, wanted = records(file), records(wholes["jsonl"])
    for one, other in zip(found, wanted, strict=True):
        assert (one["path"], one.get("answer"), one.get("problem")) == (
            other["path"], other.get("answer"), other.get("problem"),
        )  # fmt: skip
