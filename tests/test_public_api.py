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
from docstrings import lacks, names, told_of
from torch import Tensor

import fastlift
import fastlift.data
import fastlift_kernels
from fastlift.errors import UserError
from fastlift.models import backbones
from fastlift.settings import one_of

ROOT = Path(__file__).resolve().parents[1]
MODULES = (fastlift.recipes, fastlift.losses, fastlift.starts, fastlift.compat)
FACES = (fastlift, fastlift.data, fastlift_kernels, *MODULES)
PUBLIC = [(face, name) for face in FACES for name in names(face) if not inspect.ismodule(getattr(face, name))]
PUBLIC.append((backbones, "load"))


@pytest.mark.parametrize(("face", "name"), PUBLIC, ids=[f"{face.__name__}.{name}" for face, name in PUBLIC])
def test_it_is_documented_and_typed(face: Any, name: str) -> None:
    """Its docstring gives shapes, dtypes, parameters and errors, and its signature types; so do those of a class's methods."""
    value = getattr(face, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert not lacks(value)
    elif not isinstance(value, dict):  # a type made of others
        assert told_of(face, name)


def test_the_modules_names_are_seen() -> None:
    seen = {f"{face.__name__.rpartition('.')[2]}.{name}" for face, name in PUBLIC}
    losses = {"Counts", "FocalLoss", "LADELoss", "LDAMLoss", "Loss", "LossName", "LossSettings", "SoftmaxLoss"}
    assert set(names(fastlift.losses)) == losses | {"build", "class_counts_tensor"}
    assert {
        "recipes.build",
        "classifier_init.class_means",
        "lift_checkpoints.LiftState",
        "fastlift_kernels.Impl",
    } <= seen


class Planted:
    """Functions and a class whose docstrings lack what their names say; each test of the public API would fail for them."""

    def shape(self, x: Tensor) -> Tensor:
        """``x`` in fp32, doubled."""
        return 2 * x

    def dtype(self, x: Tensor) -> Tensor:
        """``x`` [B, C], doubled."""
        return 2 * x

    def parameter(self, many: int, layers: int) -> int:
        """The product of how many there are, as ``fastlift train --layers`` has it."""
        return many * layers

    def typed(self, size) -> int:  # type: ignore[no-untyped-def]
        """Its ``size``."""
        return int(size)

    def raised(self, size: int) -> int:
        """Its ``size``."""
        if size < 1:
            raise UserError("size: expected 1 or more")
        return size

    def raised_below(self, word: str) -> str:
        """The ``word``, if it is known."""
        return one_of("word", word, ["a"])

    def text(self) -> int:
        return 1

    class Valued:
        """A class with a value."""

        @property
        def value(self) -> int:
            return 1

    def referring(self, x: Tensor) -> Tensor:
        """Doubled; ``x`` as ``Planted``."""
        return 2 * x

    class Made:
        """A size that is kept."""

        def __init__(self, size: int) -> None:
            self.size = self.checked(size)

        def checked(self, value: int) -> int:
            """The ``value``, which must be positive.

            Raises:
                ValueError: it is not.
            """
            if value < 1:
                raise ValueError(value)
            return value

    def whole(self, x: Tensor, *, twice: bool = False) -> Tensor:
        """``x`` [B, C] in fp32, or ``twice`` that.

        Raises:
            UserError: no rows.
        """
        if not len(x):
            raise UserError("x: no rows")
        return 2 * x if twice else x


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shape", ["shape: no shape"]),
        ("dtype", ["dtype: no dtype"]),
        ("parameter", ["parameter: nothing of layers"]),
        ("typed", ["typed: no type of size"]),
        ("raised", ["raised: no Raises: (UserError)"]),
        ("raised_below", ["raised_below: no Raises: (UserError)"]),
        ("text", ["text: no docstring"]),
        ("Valued", ["Valued.value: no docstring"]),
        ("referring", ["referring: no shape", "referring: no dtype"]),
        ("Made", ["Made: no Raises: (ValueError)"]),
        ("whole", []),
    ],
)
def test_a_docstring_that_lacks_something_is_found(name: str, expected: list[str]) -> None:
    assert lacks(getattr(Planted, name)) == expected


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
from fastlift.models.backbones import Backbone

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
    "from fastlift.models.backbones import ResNet": 'does not explicitly export attribute "ResNet"',
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
