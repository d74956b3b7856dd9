"""--overwrite: the old run is whole or the new one has begun, wherever a kill or a full disk comes."""

import errno
from pathlib import Path

import pytest
from faults import contents, kills, refuses

from fastlift.runs.claims import claimed
from fastlift.runs.replacing import GIVEN, recover, replace_contents
from fastlift.system.files import write_json

OLD = {
    "config.json": b'{"seed": 0}',
    "results.json": b"{}",
    "checkpoints/epoch-001.safetensors": b"old",
    "tensorboard/events.1": b"old",
    "export/model.onnx": b"old",
    "notes.txt": b"mine",
}


def old_run(folder: Path, config: bytes = OLD["config.json"]) -> None:
    for name, data in (OLD | {"config.json": config}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_a_start_that_was_given_is_its_own_runs(tmp_path: Path) -> None:
    """Cut short before anything is decided, the new run takes the note of its start with it; the old run's comes back."""
    for old_has in (False, True):
        folder = tmp_path / str(old_has)
        old_run(folder)
        if old_has:
            (folder / GIVEN).touch()
        before = contents(folder)

        def write_config(folder: Path = folder) -> None:
            (folder / GIVEN).touch()
            raise OSError(errno.ENOSPC, "full")

        with pytest.raises(OSError, match="full"):
            replace_contents(folder, write_config)
        assert contents(folder) == before


@pytest.mark.parametrize("seed", [0, 1], ids=["same settings", "other settings"])
def test_a_kill_leaves_the_old_run_or_the_new_one(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number, seen = 0, set()

    def fresh() -> Path:
        nonlocal number, folder
        number += 1
        folder = tmp_path / str(number)
        old_run(folder, b'{\n  "seed": 0\n}\n')
        return folder

    folder = tmp_path
    before = OLD | {"config.json": b'{\n  "seed": 0\n}\n'}
    after = {"config.json": b'{\n  "seed": %d\n}\n' % seed}

    def write_config() -> None:
        write_json(folder / "config.json", {"seed": seed})

    def replace() -> None:
        replace_contents(folder, write_config)

    for run in kills(monkeypatch, fresh, replace):
        assert (run / "config.json").is_file(), "the folder is a run at every moment"
        with claimed(run, print):
            found = contents(run)
            assert found in (before, after)
            seen.add(len(found))
            replace()
            assert contents(run) == after
    assert seen == {len(before), len(after)}


def test_a_kill_while_recovering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are half moved back; the next one moves the rest."""
    number, folder = 0, tmp_path

    def half_replaced() -> Path:
        nonlocal number, folder
        number += 1
        folder = tmp_path / str(number)
        old_run(folder / ".replaced")
        (folder / "config.json").write_bytes(OLD["config.json"])
        return folder

    for run in kills(monkeypatch, half_replaced, lambda: recover(folder)):
        recover(run)
        assert contents(run) == OLD


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_disk_that_refuses(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os." + call, refuses(errno.EDQUOT))
        with pytest.raises(OSError, match=r"[Qq]uota"):
            replace_contents(tmp_path, lambda: None)
    assert contents(tmp_path) == OLD


def test_no_room_for_the_new_run(tmp_path: Path) -> None:
    old_run(tmp_path)
    with pytest.raises(OSError, match="No space"):
        replace_contents(tmp_path, refuses(errno.ENOSPC))
    assert contents(tmp_path) == OLD
