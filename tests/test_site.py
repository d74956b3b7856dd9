"""The documentation as a site: built strictly, so that no link or anchor leads nowhere, with every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastlift
import fastlift.data
import fastlift_kernels

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("mkdocs", reason="mkdocs comes with the extra dev")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_document_and_every_public_name_has_its_place(site: Path) -> None:
    for document in (ROOT / "docs").rglob("*.md"):
        assert (site / document.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    for module, page in ((fastlift, "fastlift"), (fastlift.data, "data"), (fastlift_kernels, "kernels")):
        text = (site / "api" / f"{page}.html").read_text(encoding="utf-8")
        names = {f"{module.__name__}.{name}" for name in module.__all__} - {"fastlift.__version__", "fastlift.data"}
        headings = set(re.findall(r"<h2[^>]*>\s*(?:<span[^>]*>)?([\w.]+)", text))
        assert names <= headings, names - headings


def test_pages_ask_no_other_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"(https?:[^\"]+)|<link[^>]* rel=\"?(?:stylesheet|preload|icon)[^>]* href=\"(https?:[^\"]+)",
            page.read_text(encoding="utf-8"),
        )
        assert not loaded, f"{page.name}: {loaded}"


def test_links_of_the_repository_lead_to_pages(site: Path) -> None:
    """A link to another document becomes one to its page, and one to a source file becomes its text."""
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="installing.html"' in start
    assert 'href="data.html#lists-that-come-by-themselves"' in start
    assert ".md" not in "".join(re.findall(r'href="([^"]*)"', start))
    installing = (site / "installing.html").read_text(encoding="utf-8")
    assert "Dockerfile" in installing
    assert 'href="../Dockerfile"' not in installing
