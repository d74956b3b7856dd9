"""Every state of a run folder has a name, and a way on that the message tells."""

from pathlib import Path

import pytest

from fastlift.config import Config, to_dict
from fastlift.errors import UserError
from fastlift.runs import folder as runs
from fastlift.runs.claims import claimed
from fastlift.runs.folder import State, check_free, create, state, way_on
from fastlift.system.files import write_json

STATES: dict[State, list[list[str]]] = {
    State.FREE: [[], [".lock"], [".lock", ".given-start"], [".lock", ".config.json.abcd1234.part/config.json"]],
    State.FOREIGN: [["photo.jpg"], ["checkpoints/epoch-001.safetensors"], ["results.json"]],
    State.REPLACED: [["config.json", ".replaced/config.json"]],
    State.BEGUN: [["config.json"], ["config.json", "data.json", "metrics.jsonl", "checkpoints/.x.abcd1234.part/x"]],
    State.UNKEPT: [["config.json", ".given-start"]],
    State.TRAINED: [["config.json", "checkpoints/step-00000003.safetensors"]],
    State.EVALUATED: [["config.json", "results.json"]],
    State.ENDED: [["config.json", "results.json", "report.html", "checkpoints/epoch-001.safetensors"]],
}
CASES = [(found, files) for found, folders in STATES.items() for files in folders]


def make(folder: Path, files: list[str]) -> Path:
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    if "config.json" in files:
        write_json(folder / "config.json", to_dict(Config()))
    return folder


def test_every_state_is_tried() -> None:
    assert set(STATES) == set(State)


@pytest.mark.parametrize(("expected", "files"), CASES)
def test_states_and_their_ways_on(expected: State, files: list[str], tmp_path: Path) -> None:
    """A plain start, --overwrite and --resume each take the folder or say what does."""
    folder = make(tmp_path / "a run", files)
    assert state(folder) is expected
    assert state(folder / "nowhere") is State.FREE
    assert way_on(folder)
    is_run = expected not in (State.FREE, State.FOREIGN)
    if expected is not State.FREE:
        with pytest.raises(UserError, match="--overwrite"):
            check_free(folder, overwrite=False)
    if expected is State.FOREIGN:
        with pytest.raises(UserError, match="leaves it alone"):
            create(folder, Config(), overwrite=True)
        assert all((folder / name).exists() for name in files)
    else:
        with claimed(folder, print):
            create(folder, Config(), overwrite=is_run)
        assert state(folder) is State.BEGUN


def test_the_ways_on_are_commands_that_fit_the_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "a run", ["config.json"])
    assert way_on(folder).endswith(f"fastlift train --resume --output '{folder}'")
    with pytest.raises(UserError, match=r"no data\.json.*--resume --output"):
        runs.RunFolder(folder).class_names()


def test_a_run_that_was_cut_short_before_its_folder_of_checkpoints_has_one_when_it_is_reopened(tmp_path: Path) -> None:
    """No checkpoint could be written then, however often the run was resumed."""
    folder = make(tmp_path / "run", ["config.json"])
    runs.reopen(folder, Config())
    assert runs.RunFolder(folder).checkpoints.is_dir()


@pytest.mark.parametrize("kept", [True, False])
def test_the_note_of_a_given_start_goes_with_the_first_checkpoint(kept: bool, tmp_path: Path) -> None:
    folder = make(tmp_path / "run", ["config.json", ".given-start", *["checkpoints/epoch-000.safetensors"] * kept])
    runs.reopen(folder, Config())
    assert (folder / ".given-start").exists() is not kept


def test_the_documentation_lists_every_state() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reading_a_run.md").read_text()
    for found in State:
        assert f"| {found.value} |" in page, found


def test_a_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is a file"):
            check_free(tmp_path / "file", overwrite=overwrite)
    with pytest.raises(UserError, match="no such folder"):
        runs.open_run(tmp_path / "nowhere")
