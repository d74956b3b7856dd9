"""The papers' sweeps: what a table trains, that trainings are shared and kept, and that no number is invented."""

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files

import fastlift

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are not installed
from benchmarks.paper import __main__ as command
from benchmarks.paper import sweep, tables
from benchmarks.paper.plots import draw
from fastlift.reporting.console import Terminal
from fastlift.system.progress import Quiet


@pytest.mark.parametrize("name", tables.NAMES)
def test_every_cell_is_a_valid_config(name: str) -> None:
    found = tables.table(name)
    titles = [cell.title for cell in found.cells]
    assert len(set(titles)) == len(titles)
    configs = [sweep.cell_config(cell, "places_lt", {}).override(**cell.testing) for cell in found.cells]
    assert len({json.dumps(fastlift.config.to_dict(config), sort_keys=True) for config in configs}) == len(configs)


@pytest.mark.parametrize("name", [n for n in tables.NAMES if n.startswith(("table", "figure11")) and n != "table14"])
def test_one_cell_is_the_papers_method(name: str) -> None:
    """Its settings are those of the recipe, tested with five crops, and its number is the paper's on the paper's data."""
    cells = tables.table(name).cells
    [cell] = [cell for cell in cells if cell.is_lift]
    config = sweep.cell_config(cell, "imagenet_lt", {})
    assert config == fastlift.recipes.lift("imagenet_lt")
    assert cell.testing["tte"] == "fivecrop"
    assert cell.testing.get("expand", 24) == 24
    assert tables.paper_accuracy(cell, "imagenet_lt", config.model.model) == 78.3
    assert tables.paper_accuracy(cell, "shapes_lt", "shapes-clip") is None
    assert tables.paper_accuracy(cell, "imagenet_lt", "ViT-L-14-quickgelu") is None
    others = [other for other in cells if other is not cell]
    assert all(tables.paper_accuracy(other, "imagenet_lt", config.model.model) is None for other in others)


def test_a_sweep_goes_on_where_it_was(
    tiny_clip: Files,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two tables share a training; a second call trains nothing; a training that was cut short is resumed."""
    cells = (
        tables.Cell("centre"),
        tables.Cell("five", testing={"tte": "fivecrop"}),
        tables.Cell("CE", settings={"loss": "CE"}),
    )
    monkeypatch.setattr(command, "table", lambda name: tables.Table(name, "LIFT", cells))
    calls: list[dict[str, Any]] = []
    train = sweep.train
    monkeypatch.setattr(sweep, "train", lambda config, **rest: (calls.append(rest), train(config, **rest))[1])
    lists = {"train_list": tiny_data / "train.txt", "test_list": tiny_data / "test.txt"}
    paths = lists | {"class_names": tiny_data / "class_names.txt", "data_root": tiny_data}
    settings = paths | {
        "model": tiny_clip[0],
        "pretrained": tiny_clip[1],
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
    }
    flags = [
        "--dataset",
        "list",
        "--folder",
        str(tmp_path),
        "--set",
        *(f"{key}={value}" for key, value in settings.items()),
    ]
    assert command.main(["table5", "table16", *flags]) == 0
    assert len(calls) == 2
    first = capsys.readouterr().out
    rows = json.loads((tmp_path / "tables" / "table5.json").read_text())["rows"]
    assert [row["title"] for row in rows] == ["centre", "five", "CE"]
    assert rows[0]["figures"] != rows[1]["figures"]
    assert all(row["paper"] is None for row in rows)
    assert first.count("| centre |") == 2

    assert command.main(["table5", "table16", *flags]) == 0
    assert len(calls) == 2
    assert capsys.readouterr().out == first

    [cell] = [
        path
        for path in (tmp_path / "cells").iterdir()
        if json.loads(path.read_text())["config"]["training"]["loss"] == "CE"
    ]
    run = tmp_path / "runs" / json.loads(cell.read_text())["run"]
    before = cell.read_text()
    cell.unlink()
    (run / "results.json").unlink()
    (run / "checkpoints" / "epoch-002.safetensors").unlink()
    assert command.main(["table5", *flags]) == 0
    assert [call["resume"] for call in calls] == [False, False, True]
    again, wanted = json.loads(cell.read_text()), json.loads(before)
    assert again["figures"] == wanted["figures"]


def test_processes_on_one_folder_share_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What another process trains is left for the end, behind other tables, and waited for."""
    ours, theirs, more = tables.Cell("ours"), tables.Cell("theirs", settings={"loss": "CE"}), tables.Cell("more")
    of_table = {"table5": (theirs, ours), "table16": (more,)}
    monkeypatch.setattr(command, "table", lambda name: tables.Table(name, "LIFT", of_table[name]))
    order: list[str] = []

    def measure(cell: tables.Cell, *rest: Any) -> sweep.Measured:
        order.append(cell.title)
        return sweep.Measured(cell.title, dict.fromkeys(("accuracy", "many", "medium", "few"), 1.0), 0, None, None)

    monkeypatch.setattr(sweep, "measure", measure)
    key = sweep.training_key(sweep.cell_config(theirs, "shapes_lt", {}))
    with contextlib.ExitStack() as other:
        assert other.enter_context(sweep._claim(tmp_path / "locks" / key, wait=False))
        work = threading.Thread(target=command.main, args=(["table5", "table16", "--folder", str(tmp_path)],))
        work.start()
        while order != ["ours", "more"]:
            time.sleep(0.01)
        work.join(0.2)
        assert work.is_alive()  # it waits
        assert order == ["ours", "more"]
    work.join(30)
    assert order == ["ours", "more", "theirs", "ours"]  # what is known is read again, not trained
    printed = capsys.readouterr().out
    assert printed.index("**table16**") < printed.index("**table5**")
    assert printed.index("| theirs |") < printed.index("| ours |")


def test_settings_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    """They may be idle in some cells, not in all; a cell that they make impossible is named and left out."""
    alone, tuned, none = tables.Cell("a", "linear_probe"), tables.Cell("b"), tables.Cell("c", "zero_shot")
    cells = [alone, tuned, none]
    assert sweep.cell_config(tuned, "shapes_lt", {"rank": 8}).model.rank == 8
    assert sweep.with_a_meaning(cells, "shapes_lt", {"rank": 8}, Quiet()) == cells
    assert sweep.with_a_meaning(cells, "shapes_lt", {"epochs": 2}, Quiet()) == cells
    impossible = tables.Cell("d", "zero_shot", {"epochs": 2})
    assert sweep.with_a_meaning([*cells, impossible], "shapes_lt", {}, Terminal()) == cells
    assert "d is left out: classifier zero_shot does not train" in capsys.readouterr().err.replace("\n", " ")
    for idle in ({"coop_length": 8}, {"rank": 8, "tte_crops": 3}):
        with pytest.raises(fastlift.UserError, match="would change nothing"):
            sweep.with_a_meaning(cells, "shapes_lt", idle, Quiet())
    with pytest.raises(fastlift.UserError, match="did you mean epochs"):
        sweep.with_a_meaning(cells, "shapes_lt", {"epoch": 2}, Quiet())


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("table5", "tuner"),
        ("table6", "lr"),
        ("table7", "init"),
        ("table12", "tte"),
        ("table16", "loss"),
        ("figure6", "rank"),
    ],
)
def test_what_a_table_compares_cannot_be_set_for_all(name: str, setting: str) -> None:
    cells = tables.table(name).cells
    with pytest.raises(fastlift.UserError, match=f"^{setting}: the table compares it"):
        sweep.refuse_compared(cells, "shapes_lt", {setting: "any"})
    sweep.refuse_compared(cells, "shapes_lt", {"seed": 1, "batch_size": 4, "amp": "fp32"})


def test_figures_of_other_data_are_other_figures() -> None:
    """What a run may go on with (a moved folder) is not what a kept result may be taken for."""
    config = sweep.cell_config(tables.Cell("a"), "shapes_lt", {})
    for changed in ({"data_root": Path("elsewhere")}, {"group_boundaries": (3, 8)}, {"bad_images": "skip"}):
        assert sweep.training_key(config.override(**changed)) != sweep.training_key(config)
    assert sweep.training_key(config.override(workers=7, tte="fivecrop")) == sweep.training_key(config)


def test_a_cell_that_the_model_cannot_have_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What only building the model tells; trouble on the way ends the sweep."""
    measured = sweep.Measured("good", {}, 0, None, None)

    def measure(cell: tables.Cell, *_: Any) -> sweep.Measured:
        if cell.title != "good":
            raise fastlift.UserError("no text tower", exit_code=int(cell.title))
        return measured

    monkeypatch.setattr(sweep, "measure", measure)
    cells = [tables.Cell("2"), tables.Cell("good")]
    assert sweep.measure_all(cells, "shapes_lt", {}, tmp_path, Terminal(), wait=False) == [measured]
    assert "2 is left out: no text tower" in capsys.readouterr().err
    for broken in ([tables.Cell("2")], [tables.Cell("good"), tables.Cell("1")]):
        with pytest.raises(fastlift.UserError, match="no text tower"):
            sweep.measure_all(broken, "shapes_lt", {}, tmp_path, Quiet(), wait=False)


@pytest.mark.parametrize("few", [5.0, None], ids=["few", "no_few"])
@pytest.mark.parametrize("name", ["figure4", "figure6", "figure11"])
def test_a_figure_is_drawn_and_a_plane_of_settings_is_a_grid(name: str, few: float | None, tmp_path: Path) -> None:
    """Of a data set without few-shot classes, it shows the rarest group that there is."""
    rare, value = ("few", "5.0") if few else ("many", "1.0")
    found = tables.table(name)
    rows = [
        sweep.Measured(cell.title, {"accuracy": float(i), "many": 1.0, "medium": None, "few": few}, 7, None, cell.at)
        for i, cell in enumerate(found.cells)
    ]
    text = sweep.markdown(found, "shapes_lt", rows, seed=0)
    if name == "figure4":
        assert text.splitlines()[4].startswith("| 0.001 | 7 | 0.0 | 1.0 | 2.0 |")
        assert f"| share of the weights: {rare} |" in text
        assert text.splitlines()[-3] == "| 1 | 7" + 6 * f" | {value}" + " |"
    else:
        assert [line.split(" | ")[0].strip("| ") for line in text.splitlines()[4:-2]] == [row.title for row in rows]
    draw(found, "shapes_lt", rows, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert found.axis in drawn
    assert f"{rare}-shot classes" in drawn
    assert all(line in drawn for line in {cell.at[1] for cell in found.cells if cell.at})


def test_the_paper_s_accuracy_stands_beside_lift_on_its_data_sets() -> None:
    lift = next(cell for cell in tables.table("table5").cells if cell.is_lift)
    assert tables.PAPER_LIFT.keys() <= set(fastlift.data.datasets.catalogue.names()) | {
        f"cifar100_ir{r}" for r in (10, 50, 100)
    }
    assert tables.paper_accuracy(lift, "inaturalist2018", tables.PAPER_MODEL) == 80.4
    assert tables.paper_accuracy(lift, "inaturalist2018", "shapes-clip") is None


def test_mistakes_are_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["table5", "--set", "epochs"], "NAME=VALUE"),
        (["table5", "all", "--set", "foo=1"], "unknown setting"),
        (["table5", "--dataset", "nowhere"], "nowhere"),
    ):
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["table99"])
