"""Which run a file belongs to: another run's checkpoint, or other settings, are noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures import Told
from run_files import flip, newest

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.runs.identity import Identity, settings_digest

OURS = Identity("ours", "settings", "fp32")


def test_another_runs_checkpoint_is_refused(run: Path, others: Path) -> None:
    shutil.copy(newest(others), newest(run))
    told = Told()
    fastlift.load_run(run, ui=told)
    assert "epoch-002.safetensors belongs to another run" in told.lines[0]
    for named in ("epoch-002", str(newest(others))):
        with pytest.raises(fastlift.UserError, match="belongs to another run"):
            fastlift.load_run(run, named)


def test_identities_differ_in_run_settings_or_dtype() -> None:
    OURS.check(replace(OURS), "it")
    for changes, said in (
        ({"run": "theirs"}, "it belongs to another run"),
        ({"settings": "theirs"}, "it was written with another seed or other settings"),
        ({"dtype": "bf16"}, "it was trained in bf16, this run in fp32"),
    ):
        with pytest.raises(fastlift.UserError, match=said):
            OURS.check(replace(OURS, **changes), "it")


def test_settings_that_were_changed_in_the_folder_are_noticed(run: Path, settings: Config) -> None:
    changed = settings.override(scale=35.0)
    (run / "config.json").write_text(json.dumps(config.to_dict(changed)))
    for use in (lambda: fastlift.load_run(run), lambda: fastlift.train(changed, output=run, resume=True)):
        with pytest.raises(fastlift.UserError, match="changed or damaged since the run was made"):
            use()
    operational = settings.override(eval_batch=3)  # which changes nothing that is computed
    (run / "config.json").write_text(json.dumps(config.to_dict(operational)))
    fastlift.load_run(run)


def test_class_names_that_were_changed_are_noticed(run: Path) -> None:
    data = json.loads((run / "data.json").read_text())
    data["class_names"][0] = "red bricj"
    (run / "data.json").write_text(json.dumps(data))
    with pytest.raises(fastlift.UserError, match="class names are not those"):
        fastlift.load_run(run)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_lost_identity_is_taken_from_the_checkpoints(run: Path, trained: Path, settings: Config, damage: str) -> None:
    file = run / "run.json"
    if damage == "missing":
        file.unlink()
    else:
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"run": values["run"].replace("a", "b").replace("1", "2")}))
    fastlift.load_run(run)
    flip(newest(run))
    fastlift.train(settings, output=run, resume=True)
    assert json.loads(file.read_text()) == json.loads((trained / "run.json").read_text())


def test_a_lost_identity_among_checkpoints_of_two_runs(run: Path, others: Path) -> None:
    shutil.copy(newest(others), newest(run))
    (run / "run.json").unlink()
    with pytest.raises(fastlift.UserError, match=r"of 2 runs.*epoch-001.*epoch-002"):
        fastlift.load_run(run)


def test_the_digest_of_settings(settings: Config, tmp_path: Path) -> None:
    digest = settings_digest(settings)
    moved = {
        "data_root": tmp_path,
        "train_list": tmp_path / "l.txt",
        "pretrained": str(tmp_path / "tiny_clip.safetensors"),
    }
    assert settings_digest(settings.override(device="cuda", eval_batch=1, **moved)) == digest
    assert settings_digest(settings.override(seed=1)) != digest
    assert settings_digest(settings.override(lr=0.06)) != digest
    assert settings_digest(fastlift.recipes.lift_plus()) != settings_digest(fastlift.recipes.lift())
