"""What an editor tells of fastlift: pyright, which VS Code asks, finds misspelt names; jedi, which IPython asks, completes them."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastlift

ROOT = Path(__file__).resolve().parents[1]
USER = {
    "import fastlift": "",
    'config = fastlift.recipes.lift("shapes_lt", epochs=1)': "",
    'run = fastlift.train(config, output="run")': "",
    "accuracy: float = run.metrics.accuracy": "",
    "reveal_type(run.model)": 'Type of "run.model" is "LiftModel"',
    "fastlift.trian(config)": '"trian" is not a known attribute of module "fastlift"',
    'fastlift.train("config.json")': 'cannot be assigned to parameter "config" of type "Config"',
    'fastlift.train(config, outptu="run")': 'No parameter named "outptu"',
}


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder of a user's, where both packages are installed under ``types``."""
    (tmp_path / "types").mkdir()
    (tmp_path / "types" / "fastlift").symlink_to(ROOT / "fastlift")
    (tmp_path / "types" / "fastlift_kernels").symlink_to(ROOT / "kernels")
    return tmp_path


@pytest.mark.skipif(importlib.util.find_spec("basedpyright") is None, reason="basedpyright comes with the extra test")
def test_a_users_mistakes_are_found_by_pyright(user: Path) -> None:
    (user / "user.py").write_text("\n".join(USER) + "\n")
    settings = {"include": ["user.py"], "extraPaths": ["types"], "typeCheckingMode": "standard"}
    (user / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=user, capture_output=True, text=True)
    told = dict.fromkeys(range(len(USER)), "")
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        told[one["range"]["start"]["line"]] += one["message"]
    for number, (line, expected) in enumerate(USER.items()):
        assert (expected in told[number]) if expected else not told[number], f"{line}: {told[number]!r}"


def test_completion_knows_every_name_and_the_arguments(user: Path) -> None:
    jedi = pytest.importorskip("jedi", reason="jedi comes with the extra test")
    project = jedi.Project(user, added_sys_path=[str(user / "types")])
    completed = jedi.Script("import fastlift\nfastlift.", project=project).complete()
    assert set(fastlift.__all__) <= {one.name for one in completed}
    (signature,) = jedi.Script("import fastlift\nfastlift.train(", project=project).get_signatures()
    assert [one.name for one in signature.params] == list(inspect.signature(fastlift.train).parameters)
    assert "output: str | Path | None=None" in signature.to_string()
    of_run = jedi.Script("import fastlift\nrun = fastlift.train(config)\nrun.", project=project).complete()
    assert {"folder", "metrics", "model", "results"} <= {one.name for one in of_run}
