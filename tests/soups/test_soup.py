"""A soup is a run like any other, and says what it is made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, Told
from safetensors.torch import load_file

import fastlift
from fastlift.cli import main
from fastlift.config import Config, load
from fastlift.engine import train as training
from fastlift.engine.sharing import publishable
from fastlift.errors import UserError
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from tests.soups.conftest import Made


def trained(folder: Path, name: str) -> dict[str, torch.Tensor]:
    state = load_file(folder / "checkpoints" / f"{name}.safetensors")
    return {key: tensor for key, tensor in state.items() if not key.startswith("momentum.")}


def by_hand(states: list[dict[str, torch.Tensor]], weights: list[float]) -> dict[str, torch.Tensor]:
    return {
        name: (sum(w * state[name].double() for state, w in zip(states, weights, strict=True)) / sum(weights)).float()
        for name in states[0]
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_the_mean_of_runs_and_the_weighted_one(made: Made, tmp_path: Path) -> None:
    folders = [made("a"), made("b", seed=1), made("c", lr=0.2)]
    states = [trained(folder, "epoch-001") for folder in folders]
    assert not same(states[0], states[1])
    plain = fastlift.soup(folders, output=tmp_path / "plain", ui=None)
    assert same(trained(plain.folder, "epoch-000"), by_hand(states, [1, 1, 1]))
    assert [one["weight"] for one in plain.results["soup"]["ingredients"]] == [1 / 3] * 3
    weighted = fastlift.soup(folders, weights=[2, 0, 6], output=tmp_path / "weighted", ui=None)
    assert same(trained(weighted.folder, "epoch-000"), by_hand(states, [2, 0, 6]))
    assert [one["weight"] for one in weighted.results["soup"]["ingredients"]] == [0.25, 0.0, 0.75]
    assert (plain.results["soup"]["how"], weighted.results["soup"]["how"]) == ("uniform", "weighted")


def test_the_epochs_of_one_run_and_a_state_twice(made: Made, tmp_path: Path) -> None:
    folder = made("a", epochs=3)
    states = [trained(folder, f"epoch-00{number}") for number in (1, 2, 3)]
    last = fastlift.soup([folder], last=2, output=tmp_path / "last", ui=None)
    assert same(trained(last.folder, "epoch-000"), by_hand(states[1:], [1, 1]))
    named = fastlift.soup([folder], checkpoints=["1", "epoch-003"], output=tmp_path / "named", ui=None)
    assert same(trained(named.folder, "epoch-000"), by_hand([states[0], states[2]], [1, 1]))
    twice = fastlift.soup([folder, folder], output=tmp_path / "twice", ui=None)
    assert same(trained(twice.folder, "epoch-000"), states[2])
    ended = json.loads((folder / "results.json").read_text())
    assert twice.results["metrics"] == ended["metrics"]


def test_of_runs_that_keep_an_average_it_is_the_mean_of_these(made: Made, tmp_path: Path) -> None:
    folders = [made("a", ema=0.5), made("b", ema=0.5, lr=0.2)]
    read = [checkpoints.read(folder / "checkpoints" / "epoch-001.safetensors") for folder in folders]
    assert not same(read[0].trained, read[0].weights())
    soup = fastlift.soup(folders, output=tmp_path / "soup", ui=None)
    assert same(trained(soup.folder, "epoch-000"), by_hand([one.weights() for one in read], [1, 1]))


def test_the_run_says_what_it_is_made_of(made: Made, tmp_path: Path) -> None:
    a, b = made("a"), made("b", seed=1)
    run = fastlift.soup([a, b], output=tmp_path / "soup", ui=None)
    soup = run.results["soup"]
    assert soup == json.loads((run.folder / "soup.json").read_text())
    for one, folder, seed in zip(soup["ingredients"], (a, b), (0, 1), strict=True):
        identity = json.loads((folder / "run.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        assert (one["name"], one["run"], one["checkpoint"]) == (folder.name, identity["run"], "epoch-001")
        assert one["settings"] == {"seed": seed}
        assert one["figures"]["accuracy"] == results["metrics"]["accuracy"]
        assert one["test"] == results["data"]["fingerprints"]["test"]
    page = (run.folder / "report.html").read_text()
    assert "What soup is made of" in page
    assert "What a is made of" not in (a / "report.html").read_text()
    config = load(run.folder / "config.json")
    assert (config.training.epochs, config.training.lr, config.run.amp) == (0, 0.05, "fp32")


def test_greedy_keeps_what_does_not_lower_the_figure(made: Made, tmp_path: Path) -> None:
    good, bad = made("good", val_share=0.2), made("bad", val_share=0.2, lr=30.0)
    told = Told()
    run = fastlift.soup([bad, good], greedy=True, best_by="log_loss", output=tmp_path / "soup", ui=told)
    soup = run.results["soup"]
    assert (soup["how"], soup["best_by"]) == ("greedy", "log_loss")
    assert [one["weight"] for one in soup["ingredients"]] == [0.0, 1.0]
    assert soup["ingredients"][1]["validation"] == soup["validation"] < soup["ingredients"][0]["validation"]
    assert same(trained(run.folder, "epoch-000"), trained(good, "epoch-001"))
    assert (
        "the validation split has no image of 1 of 6 classes (black coal): --greedy chooses by the others" in told.text
    )
    assert "Validation (log loss)" in (run.folder / "report.html").read_text()


def test_greedy_without_a_validation_split_that_is_the_same(made: Made, tmp_path: Path) -> None:
    a, b, c = made("a"), made("b", val_share=0.3), made("c", val_share=0.3, split_seed=1)
    for folders, words in (
        ([a, a], "--greedy: list has no validation split, and the test split is evaluated once"),
        ([b, a], "a had no validation split than that of .*b, so it may have been trained on these images"),
        ([b, c], "c had another validation split than that of .*b"),
    ):
        with pytest.raises(UserError, match=words):
            fastlift.soup(folders, greedy=True, output=tmp_path / "soup", ui=None)
        assert not (tmp_path / "soup").exists()


def test_what_contradicts_itself(made: Made, tmp_path: Path) -> None:
    a, b = made("a"), made("b", seed=1)
    for asked, words in (
        ({"greedy": True, "weights": [1, 2]}, "--greedy and --weights: a greedy soup has equal weights"),
        ({"best_by": "accuracy"}, "best_by accuracy would change nothing here: it is the figure of --greedy"),
        ({"weights": [1]}, "--weights: 1 of them for 2 checkpoints"),
        ({"output": a}, "exists; use --resume to go on with it"),
        ({"output": a, "overwrite": True}, "a is, or holds, a run of this soup"),
    ):
        with pytest.raises(UserError, match=words):
            fastlift.soup([a, b], **({"output": tmp_path / "soup", "ui": None} | asked))  # type: ignore[arg-type]
    assert not (tmp_path / "soup").exists()
    assert (a / "results.json").is_file()


def test_other_random_values_and_other_test_images_are_told(made: Made, tiny_data: Path, tmp_path: Path) -> None:
    a, b = made("a"), made("b", seed=1)
    lines = (tiny_data / "test.txt").read_text().splitlines()
    (tmp_path / "fewer.txt").write_text("\n".join(lines[1:]) + "\n")
    other, told = made("other", test_list=str(tmp_path / "fewer.txt")), Told()
    fastlift.soup([a, b], output=tmp_path / "seeds", ui=told)
    assert "these runs began with other random values (adaptformer, seeds 0, 1)" in told.text
    told = Told()
    run = fastlift.soup([a, other], output=tmp_path / "tests", ui=told)
    assert "began with other random values" not in told.text
    assert "other: tested on other images than a, on whose test split the soup is evaluated" in told.text
    from fastlift.reporting.soups import soup_figures

    assert list(soup_figures(run.results)) == ["soup", "a"]  # figures of other images are not set beside these
    told = Told()
    fastlift.soup([made("x", tuner="bias"), made("y", tuner="bias", seed=1)], output=tmp_path / "bias", ui=told)
    assert "random values" not in told.text


def test_every_command_takes_it(
    made: Made, settings: Config, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, soup = made("a"), made("b", lr=0.1), tmp_path / "soup"
    assert main(["soup", str(a), str(b), "--output", str(soup)]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()[2:]] == ["soup", "a", "b"]
    assert main(["evaluate", str(soup), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["center"]["accuracy"] == json.loads((soup / "results.json").read_text())["metrics"]["accuracy"]
    image = next((tiny_data / "test").rglob("*.jpg"))
    assert main(["predict", str(soup), str(image)]) == 0
    assert main(["report", str(a), str(soup), "--output", str(tmp_path / "both.html")]) == 0
    assert "What soup is made of" in (tmp_path / "both.html").read_text()
    model = fastlift.load_run(soup)
    assert torch.equal(model.trained()["head.weight"], trained(soup, "epoch-000")["head.weight"])
    still = settings.override(lr=0.0, init_from=str(soup))
    warm = fastlift.train(still, output=tmp_path / "warm", ui=None).folder
    assert same(trained(warm, "epoch-001"), trained(soup, "epoch-000"))
    shared = publishable(soup, tmp_path / "shared", "some/soup")
    assert "the uniform average of 2 trained checkpoints" in (shared / "README.md").read_text()
    parts = json.loads((shared / "results.json").read_text())["soup"]["ingredients"]
    assert all("name" not in one and "digest" in one for one in parts)
    again = fastlift.soup([soup, a], output=tmp_path / "of_soups", ui=None)
    assert same(
        trained(again.folder, "epoch-000"), by_hand([trained(soup, "epoch-000"), trained(a, "epoch-001")], [1, 1])
    )


@pytest.mark.parametrize("kept", [False, True])
def test_a_kill_loses_nothing(kept: bool, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has kept the average it is made again; after that it is evaluated."""
    a, b, soup = made("a"), made("b", seed=1), tmp_path / "soup"
    whole = fastlift.soup([a, b], output=tmp_path / "whole", ui=None)

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_evaluate" if kept else "describe_data", killed)
        with pytest.raises(KeyboardInterrupt):
            fastlift.soup([a, b], output=soup, ui=None)
    assert runs.state(soup) is (runs.State.TRAINED if kept else runs.State.UNKEPT)
    if kept:
        shutil.rmtree(a)
        run = fastlift.train(load(soup / "config.json"), output=soup, resume=True, ui=None)
    else:
        with pytest.raises(UserError, match=r"start it again: fastlift .*soup RUN RUN\) --overwrite"):
            fastlift.train(load(soup / "config.json"), output=soup, resume=True, ui=None)
        run = fastlift.soup([a, b], output=soup, overwrite=True, ui=None)
    assert run.results["soup"] == whole.results["soup"]
    assert run.results["metrics"] == whole.results["metrics"]
    assert same(trained(soup, "epoch-000"), trained(whole.folder, "epoch-000"))


def test_a_backbone_that_was_replaced_since(made: Made, tiny_clip: Files, tmp_path: Path) -> None:
    from fixtures import write_tiny_clip

    (tmp_path / "clip").mkdir()
    _, weights = write_tiny_clip(tmp_path / "clip")
    a, b = made("a", pretrained=str(weights)), made("b", pretrained=str(weights), seed=1)
    write_tiny_clip(tmp_path / "clip", seed=1)
    with pytest.raises(UserError, match="the backbone weights are not those that the runs of this soup trained on"):
        fastlift.soup([a, b], output=tmp_path / "soup", ui=None)
    assert not (tmp_path / "soup").exists()


def test_runs_of_data_that_came_from_python(settings: Config, tiny_data: Path, tmp_path: Path) -> None:
    frame = [
        (line.rsplit(" ", 1)[0], int(line.rsplit(" ", 1)[1]))
        for line in (tiny_data / "train.txt").read_text().splitlines()
    ]
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"path": [path for path, _ in frame], "label": [f"class {label}" for _, label in frame]})
    data = fastlift.data.from_dataframe(table, root=tiny_data, test_share=0.3)
    python = settings.merged(dataset="shapes_lt", data_root=None, train_list=None, test_list=None, class_names=None)
    folders = [
        fastlift.train(python.override(seed=seed), dataset=data, output=tmp_path / f"{seed}", ui=None).folder
        for seed in (0, 1)
    ]
    run = fastlift.soup(folders, output=tmp_path / "soup", ui=None)
    assert run.results["data"]["fingerprints"] == json.loads((folders[0] / "data.json").read_text())["fingerprints"]
