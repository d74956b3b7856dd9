"""What mkdocs.yml cannot say: pages from outside docs/, their links, and an API reference that leaves no public name out."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File, Files

import fastlift
import fastlift.data
import fastlift_kernels

ROOT = Path(__file__).resolve().parents[1]
_PLACES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_PLACES |= {"kernels/README.md": "kernels/index.md"}
_FOLDERS = ("kernels/*/README.md", "benchmarks/*/README.md", "examples/*/README.md")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def pages() -> dict[str, str]:
    """Where the site has each Markdown file: path in the repository -> path in the site's sources."""
    found = dict(_PLACES)
    for pattern in _FOLDERS:
        for file in ROOT.glob(pattern):
            name = file.parent.relative_to(ROOT).as_posix()
            found[f"{name}/README.md"] = f"{name}.md"
    for file in (ROOT / "docs").rglob("*"):
        if file.is_file():
            found[file.relative_to(ROOT).as_posix()] = file.relative_to(ROOT / "docs").as_posix()
    return found


def on_config(config: Any) -> Any:
    """Both packages under the names that they are imported by, for the reader of their sources."""
    types = ROOT / "build" / "types"
    types.mkdir(parents=True, exist_ok=True)
    for name, folder in (("fastlift", "fastlift"), ("fastlift_kernels", "kernels")):
        link = types / name
        if not link.is_symlink():
            link.symlink_to(Path("../..") / folder)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/ and those of the API."""
    for origin, place in pages().items():
        if not origin.startswith("docs/"):
            text = (ROOT / origin).read_text(encoding="utf-8")
            files.append(File.generated(config, place, content=text))
    for place, text in reference().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as in the repository lead to pages where there are some; those to other files are their text alone."""
    places = pages()
    origin = next((origin for origin, place in places.items() if place == page.file.src_uri), None)
    if origin is None:
        return markdown

    def changed(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        name, hash_mark, anchor = target.partition("#")
        if "://" in name or not name:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), name))
        place = places.get(path) or places.get(f"{path}/README.md")
        if place is None and (ROOT / path).exists():
            return text
        if place is None:
            return link[0]  # which mkdocs reports
        there = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"{image}[{text}]({there}{hash_mark}{anchor})"

    pieces, last = [], 0
    for code in _BLOCK.finditer(markdown):  # which stays as it is
        pieces += [_LINK.sub(changed, markdown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*pieces, _LINK.sub(changed, markdown[last:])])


def reference() -> dict[str, str]:
    """The pages of the API: every public name, under the module that documents it."""
    modules = {"fastlift": fastlift, "data": fastlift.data, "kernels": fastlift_kernels}
    return {f"api/{page}.md": f"# {module.__name__}\n\n{_entries(module)}" for page, module in modules.items()}


def _entries(module: ModuleType) -> str:
    names = (name for name in module.__all__ if not name.startswith("__"))
    found = {name: getattr(module, name) for name in names}
    return "\n".join(
        _entry(f"{module.__name__}.{name}", one) for name, one in found.items() if one is not fastlift.data
    )


def _entry(heading: str, found: Any) -> str:
    """The reference of one public name; a module's is that of all that it defines."""
    path = found.__name__ if isinstance(found, ModuleType) else f"{found.__module__}.{found.__qualname__}"
    if not hasattr(found, "__qualname__") and not isinstance(found, ModuleType):  # such as a type alias
        path = heading
    return f"::: {path}\n    options:\n      heading: {heading}\n      toc_label: {heading}\n"
