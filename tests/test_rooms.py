"""The rooms of fastlift: each imports those before it and none behind it, there is no circle, and no file is crowded."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room may import those before it. docs/architecture.md says what each is for.
ROOMS = (
    "errors",
    "settings",
    "system",
    "data",
    "models",
    "training",
    "evaluation",
    "advice",
    "callbacks",
    "config",
    "runs",
    "interop",
    "reporting",
    "engine",
    "soups",
    "serving",
    "bench",
    "doctor",
    "recipes",
    "commands",
    "cli",
    "__main__",
)
MOST_LINES = 350


def _modules(root: Path, package: str) -> dict[str, Path]:
    """Modules of a package, which lies in the folder ``root``, by their dotted names."""
    found = {}
    for path in root.rglob("*.py"):
        dotted = ".".join((package, *path.relative_to(root).with_suffix("").parts))
        found[dotted.removesuffix(".__init__")] = path
    return found


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that a file imports, inside its functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):  # by a name
            names = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        else:
            continue
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {""}


def graph(root: Path, package: str) -> dict[str, set[str]]:
    """Module -> the modules of its package that it imports; the package itself, whose names are loaded lazily, is left out."""
    modules = _modules(root, package)
    return {name: _imported(path, modules) - {name, package} for name, path in modules.items() if name != package}


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Modules on a circle of imports: those that are left when whatever imports nothing, or nothing but such, is taken away."""
    left = {name: set(imported) for name, imported in edges.items()}
    while ends := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in ends:
            del left[name]
    back = {name: {other for other in left if name in left[other]} for name in left}
    while starts := [name for name, importers in back.items() if not importers & back.keys()]:
        for name in starts:
            del back[name]
    return sorted(back)


def against_order(edges: dict[str, set[str]], rooms: tuple[str, ...] = ROOMS) -> list[str]:
    """Imports of a room that lies behind."""
    place = {room: number for number, room in enumerate(rooms)}

    def room(name: str) -> int:
        return place[name.split(".")[1]]

    return sorted(
        f"{name} -> {other}" for name, imported in edges.items() for other in imported if room(other) > room(name)
    )


def folded(edges: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The same for the parts of one package, its files and folders: what a folder's files import, the folder imports."""
    depth = package.count(".") + 2
    found: dict[str, set[str]] = {}
    for name, imported in edges.items():
        if name.startswith(f"{package}."):
            part = ".".join(name.split(".")[:depth])
            others = {".".join(other.split(".")[:depth]) for other in imported if other.startswith(f"{package}.")}
            found.setdefault(part, set()).update(others - {part})
    return found


@cache
def fastlift_graph() -> dict[str, set[str]]:
    return graph(ROOT / "fastlift", "fastlift")


def test_a_room_imports_none_behind_it() -> None:
    assert against_order(fastlift_graph()) == []


@pytest.mark.parametrize(("folder", "package"), [("fastlift", "fastlift"), ("kernels", "fastlift_kernels")])
def test_no_import_circle(folder: str, package: str) -> None:
    assert circles(graph(ROOT / folder, package)) == []


@pytest.mark.parametrize(
    "package", sorted({name.rpartition(".")[0] for name in fastlift_graph() if name.count(".") > 1})
)
def test_no_circle_among_the_parts_of_a_room(package: str) -> None:
    assert circles(folded(fastlift_graph(), package)) == []


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    """A lazy import of a later room, and a circle."""
    root = tmp_path / "some"
    for room, text in {
        "errors": "",
        "data": "def late():\n    from some.models import vit\n",
        "models": "",
    }.items():
        (root / room).mkdir(parents=True)
        (root / room / "__init__.py").write_text(text)
    (root / "models" / "vit.py").write_text("import some.models.text\n")
    (root / "models" / "text.py").write_text("from some.models import vit\n")
    edges = graph(root, "some")
    assert against_order(edges, ("errors", "data", "models")) == ["some.data -> some.models.vit"]
    assert circles(edges) == ["some.models.text", "some.models.vit"]


def test_planted_folders_that_import_each_other_are_found() -> None:
    """No file is on a circle, but the folders are."""
    edges = {"a.b.x.one": {"a.b.y.two"}, "a.b.y.two": set(), "a.b.y.three": {"a.b.x.four"}, "a.b.x.four": set()}
    assert circles(edges) == []
    assert circles(folded(edges, "a.b")) == ["a.b.x", "a.b.y"]


def test_every_room_is_in_the_order() -> None:
    assert {name.split(".")[1] for name in fastlift_graph()} == set(ROOMS)


@pytest.mark.parametrize("package", ["fastlift", "kernels", "benchmarks"])
def test_no_file_is_crowded(package: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def _told(docstring: str) -> tuple[set[str], set[str]]:
    """The rooms that a docstring names as imported and as importing."""
    sentences = re.search(r"Imports ([^.]+)\. Imported by ([^.]+)\.$", " ".join(docstring.split()))
    imported, importers = ("", "") if sentences is None else sentences.groups()
    return set(re.findall(r"``(\w+)``", imported)), set(re.findall(r"``(\w+)``", importers))


@pytest.mark.parametrize("path", sorted((ROOT / "fastlift").rglob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_every_room_says_what_it_is_for(path: Path) -> None:
    """Packages have a docstring; those at the top also say which rooms they import, and which import them."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert told
    room = path.parent.name
    if path.parent.parent == ROOT / "fastlift":
        pairs = {(a.split(".")[1], b.split(".")[1]) for a, imported in fastlift_graph().items() for b in imported}
        pairs -= {(room, room)}
        assert _told(told) == ({b for a, b in pairs if a == room}, {a for a, b in pairs if b == room})


def _declared(node: ast.AST) -> list[ast.expr | None]:
    """The types of a function's arguments, or of a class's fields."""
    if isinstance(node, ast.FunctionDef):
        return [given.annotation for given in ast.walk(node.args) if isinstance(given, ast.arg)]
    return (
        [field.annotation for field in node.body if isinstance(field, ast.AnnAssign)]
        if isinstance(node, ast.ClassDef)
        else []
    )


def test_few_functions_take_the_whole_config() -> None:
    """``docs/architecture.md`` names them all; commands embed it, for the flags."""
    taking = {
        node.name
        for path in (ROOT / "fastlift").rglob("*.py")
        if "commands" not in path.parts and path.name != "config.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(kind is not None and re.search(r"\bConfig\b", ast.unparse(kind)) for kind in _declared(node))
    }
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.search(r"take the whole\s+`Config`:(.*?)\n\n", text, re.DOTALL)
    assert named is not None
    assert set(re.findall(r"`(?:\w+\.)?(\w+)`", named[1])) == taking
