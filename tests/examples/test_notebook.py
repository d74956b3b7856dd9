"""The notebook of examples/ runs from its first cell to its last, shows progress and tables, and lies here without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient comes with the extra test")
NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "first_steps.ipynb"


def test_the_repository_holds_no_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert set(cell["metadata"]) == set()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every output of the notebook shows, by type, after it ran in an empty folder with a kernel of this Python."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    assert (folder / "runs/shapes/report.html").is_file()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "error" not in {output.output_type for output in outputs}
    streams = [{output.name: output.text} for output in outputs if output.output_type == "stream"]
    return [*streams, *(dict(output.data) for output in outputs if "data" in output)]


def test_it_shows_progress_that_reaches_its_end(shown: list[dict[str, Any]]) -> None:
    bars = [one["text/html"] for one in shown if "<progress" in one.get("text/html", "")]
    (training,) = [bar for bar in bars if bar.startswith("<div>training ")]
    value, most = re.findall(r'value="(\d+)" max="(\d+)"', training)[0]
    assert value == most == "15"
    assert "report.html" in "".join(one.get("stdout", "") for one in shown)
    assert not any("stderr" in one for one in shown)


def test_results_are_tables(shown: list[dict[str, Any]]) -> None:
    tables = "".join(one["text/html"] for one in shown if "<table>" in one.get("text/html", ""))
    for told in ("Overall accuracy", "mean class accuracy", "30 images", "shapes/red circle/0.png", "probability"):
        assert told in tables
