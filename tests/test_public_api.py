"""The public face: every name is documented and typed, and a type checker knows the same names as Python does."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastlift
import fastlift.data
import fastlift_kernels

ROOT = Path(__file__).resolve().parents[1]
FACES = (fastlift, fastlift.data, fastlift_kernels)
PUBLIC = [(face, name) for face in FACES for name in face.__all__ if not name.startswith("__")]
IDS = [f"{face.__name__}.{name}" for face, name in PUBLIC]


def _members(value: Any) -> list[tuple[str, Any]]:
    """A public function; or a class and its own public methods; or a module's own public functions and classes."""
    if inspect.ismodule(value):
        own = [
            v
            for k, v in vars(value).items()
            if not k.startswith("_") and getattr(v, "__module__", "") == value.__name__
        ]
        return [member for one in own if inspect.isclass(one) or inspect.isfunction(one) for member in _members(one)]
    if not inspect.isclass(value):
        return [(value.__name__, value)] if inspect.isfunction(value) else []
    methods = [
        (f"{value.__name__}.{k}", v) for k, v in vars(value).items() if not k.startswith("_") and inspect.isfunction(v)
    ]
    return [(value.__name__, value), *methods]


@pytest.mark.parametrize(("face", "name"), PUBLIC, ids=IDS)
def test_it_is_documented_and_typed(face: Any, name: str) -> None:
    for called, member in _members(getattr(face, name)):
        if not called.endswith(".forward"):  # whose equation is the class's
            assert inspect.getdoc(member), f"{called} has no docstring"
        if inspect.isfunction(member):
            bare = [
                parameter.name
                for parameter in inspect.signature(member).parameters.values()
                if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
            ]
            assert not bare, f"{called}: {', '.join(bare)} without a type"


@pytest.mark.parametrize(("face", "name"), PUBLIC, ids=IDS)
def test_what_it_raises_and_takes_is_said(face: Any, name: str) -> None:
    """A function that takes more than a few things says what they are."""
    value = getattr(face, name)
    if inspect.isfunction(value) and len(inspect.signature(value).parameters) > 3:
        assert "Args:" in (inspect.getdoc(value) or ""), f"{name} does not say what it takes"


def test_a_type_checker_knows_the_same_names() -> None:
    """What ``fastlift/__init__.py`` imports for type checkers is what it loads at run time."""
    tree = ast.parse((ROOT / "fastlift" / "__init__.py").read_text())
    lines = next(node.body for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    told = {alias.asname for line in lines if isinstance(line, ast.ImportFrom) for alias in line.names if alias.asname}
    told |= {
        name.id
        for line in lines
        if isinstance(line, ast.Assign)
        for name in ast.walk(line.targets[0])
        if isinstance(name, ast.Name)
    }
    assert told == set(fastlift.__all__) - {"__version__"}


USER = """\
import fastlift
from fastlift import Config, recipes

config: Config = recipes.lift("shapes_lt", epochs=1)
run = fastlift.train(config, output="run")
accuracy: float = run.metrics.accuracy
means = fastlift.starts.class_means
state = fastlift.compat.LiftState
reveal_type(run.model)
"""
MISTAKES = {
    "fastlift.trian(config)": 'Module has no attribute "trian"',
    "fastlift.train('config.json')": 'Argument 1 to "train" has incompatible type "str"',
    "fastlift.train(config, outptu='run')": 'Unexpected keyword argument "outptu" for "train"',
    "fastlift.CosineClassifier('wide', 10)": 'Argument 1 to "CosineClassifier" has incompatible type "str"',
}


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_users_mistakes_are_found_by_mypy(tmp_path: Path) -> None:
    """The project's own settings and cache for fastlift; strict, without any ``Any``, for the user's file."""
    lines = USER.splitlines() + list(MISTAKES)
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    settings = (ROOT / "pyproject.toml").read_text()
    ours = settings[settings.index("[tool.mypy]") : settings.index("[tool.pytest")]
    strict = "disallow_any_expr = true\ndisallow_untyped_calls = true\nwarn_return_any = true\n"
    (tmp_path / "mypy.toml").write_text(f'{ours}\n[[tool.mypy.overrides]]\nmodule = ["user"]\n{strict}')
    (tmp_path / "types").mkdir()
    (tmp_path / "types" / "fastlift").symlink_to(ROOT / "fastlift")
    (tmp_path / "types" / "fastlift_kernels").symlink_to(ROOT / "kernels")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "mypy.toml",
        "--cache-dir",
        str(tmp_path / "cache"),
        "user.py",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"MYPYPATH": str(tmp_path / "types")}
    )
    found = dict.fromkeys(range(1, len(lines) + 1), "")
    for line in done.stdout.splitlines():
        if line.startswith("user.py:"):
            _, number, told = line.split(":", 2)
            found[int(number)] += told
    for number, line in enumerate(lines, 1):
        if line in MISTAKES:
            assert MISTAKES[line] in found[number], done.stdout
        elif "reveal_type" in line:
            assert "fastlift.models.lift.LiftModel" in found[number], done.stdout
        else:
            assert "error" not in found[number], done.stdout
