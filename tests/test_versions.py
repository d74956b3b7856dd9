"""What pyproject.toml declares is what the code uses, and what `make test-lowest` has installed."""

import ast
import os
import sys
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
# Imported names that are not those of their distributions.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "open_clip": "open-clip-torch",
    "nvidia": "nvidia-dali-cuda130",
}
USED_AT_RUN_TIME = (
    "dali",
    "transformers",
    "huggingface",
    "onnx",
    "parquet",
    "remote",
    "serve",
    "wandb",
    "mlflow",
    "trackio",
)


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements by name: those of the package, and of its extras, fastlift's own extras in them taken apart.

    As on Python 3.12, since atheris is declared for some versions alone.
    """
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, requires("fastlift") or []):
        places = [{"extra": extra, "python_version": "3.12"} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(place) for place in places):
            if canonicalize_name(requirement.name) == "fastlift":
                found |= declared(*requirement.extras)
            else:
                found[canonicalize_name(requirement.name)] = requirement
    return found


def imports(file: Path, *, at_once: bool = False) -> Iterator[str]:
    """First names of the modules that a file imports; ``at_once``: only those that importing it needs."""
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try, ast.If)
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        if not (at_once and isinstance(node, later)):
            waiting += ast.iter_child_nodes(node)


def own_modules(folder: str) -> set[str]:
    """What a folder finds without installing more: the two packages, and beside tests, benchmarks and examples their helpers."""
    own = {"fastlift", "fastlift_kernels"}
    if folder in ("fastlift", "kernels"):
        return own
    places = [ROOT / name for name in ("tests", "benchmarks", "examples")]
    files = [file for place in places for file in place.rglob("*.py") if "__pycache__" not in file.parts]
    return own | {file.stem for file in files} | {part for file in files for part in file.relative_to(ROOT).parts[:-1]}


@pytest.mark.parametrize(
    ("folder", "extras", "at_once"),
    [("fastlift", (), True), ("fastlift", USED_AT_RUN_TIME, False), ("kernels", (), True), ("kernels", (), False),
     ("examples", ("examples",), False), ("tests", ("test", "dali", "fuzz", "trackio"), False), ("benchmarks", ("test", "dali"), False)],
)  # fmt: skip
def test_what_is_imported_is_declared(folder: str, extras: tuple[str, ...], at_once: bool) -> None:
    known = {*declared(*extras), *map(canonicalize_name, sys.stdlib_module_names | own_modules(folder))}
    files = [path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]
    missing = {
        (name, str(file.relative_to(ROOT)))
        for file in files
        for name in imports(file, at_once=at_once)
        if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in known
    }
    assert files
    assert not missing


def test_everything_declared_has_a_lower_bound() -> None:
    """So that `make test-lowest` means something for it; what only checks and builds is not tried there."""
    for name, requirement in declared("test", "dali", "dali-cuda12").items():
        assert lowest(requirement) is not None, name


def lowest(requirement: Requirement) -> Version | None:
    bounds = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    return bounds[0] if len(bounds) == 1 else None


@pytest.mark.skipif(
    os.environ.get("FASTLIFT_VERSIONS") != "lowest", reason="only in the environment of make test-lowest"
)
def test_the_lowest_versions_are_installed() -> None:
    for name, requirement in declared("test", "dali").items():
        bound = lowest(requirement)
        assert bound is not None
        assert Version(version(name)).release[: len(bound.release)] == bound.release, name
