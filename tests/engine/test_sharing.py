"""Runs that are pushed to a hub and loaded from it: against a small hub on this machine, by the real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fixtures import Files, tiny_recipe
from hub_server import TOKEN, HubServer, hub_server
from huggingface_hub import ModelCard, constants
from safetensors import safe_open

import fastlift
from fastlift.cli import main
from fastlift.engine.sharing import publishable, push
from fastlift.errors import UserError


@pytest.fixture(scope="module")
def run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of a tiny model, on lists below a folder of this machine."""
    folder = tmp_path_factory.mktemp("runs") / "birds"
    fastlift.train(tiny_recipe(tiny_clip, tiny_data, epochs=2, amp="fp32"), output=folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def beside_the_weights(tiny_clip: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the files of the backbone, which a run does not hold."""
    folder = tmp_path / "work"
    folder.mkdir()
    for file in tiny_clip:
        (folder / file.name).symlink_to(file)
    monkeypatch.chdir(folder)


def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("beside_the_weights")
def test_what_was_pushed_is_loaded_elsewhere(run: Path, hub: HubServer) -> None:
    assert push(run, "someone/birds", licence="apache-2.0", private=True) == f"{hub.endpoint}/someone/birds"
    assert hub.private == {"someone/birds": True}
    model, own = fastlift.from_pretrained("someone/birds"), fastlift.load_run(run)
    size = own.preprocessing.image_size
    x = torch.nn.functional.interpolate(images(), (size, size))
    with torch.no_grad():
        assert torch.equal(model(x), own(x))
    assert model.class_names == own.class_names
    first = hub.repositories["someone/birds"][-1][0]
    push(run, "someone/birds", checkpoint="epoch-001")
    files = hub.files("someone/birds")
    assert [name for name in files if name.startswith("checkpoints/")] == ["checkpoints/epoch-001.safetensors"]
    with torch.no_grad():
        assert torch.equal(fastlift.from_pretrained("someone/birds")(x), fastlift.load_run(run, "epoch-001")(x))
        assert torch.equal(fastlift.from_pretrained("someone/birds", revision=first)(x), own(x))


@pytest.mark.usefixtures("beside_the_weights")
def test_downloads_show_a_bar_or_nothing(
    run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    push(run, "someone/birds")
    shown = []
    for name, more in (("bar", {}), ("silent", {"ui": None})):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / name))
        capfd.readouterr()
        fastlift.from_pretrained("someone/birds", **more)
        shown.append("".join(capfd.readouterr()))
    assert "Fetching" in shown[0]
    assert shown[1] == ""


@pytest.mark.usefixtures("beside_the_weights")
def test_without_a_network_the_cache_is_enough(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    push(run, "someone/birds")
    fastlift.from_pretrained("someone/birds")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.asked.clear()
    fastlift.from_pretrained("someone/birds")
    assert not hub.asked
    with pytest.raises(UserError, match="the files of someone/others are not in the cache"):
        fastlift.from_pretrained("someone/others")


def test_nothing_of_this_machine_leaves(run: Path, tmp_path: Path) -> None:
    folder = publishable(run, tmp_path / "out", "someone/birds")
    held = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert held == [
        "README.md",
        "checkpoints/epoch-002.safetensors",
        "config.json",
        "data.json",
        "results.json",
        "run.json",
    ]
    for name in held:
        text = (folder / name).read_bytes()
        for secret in (
            str(run.parent),
            "/tmp",
            "train.txt",
            json.loads((run / "results.json").read_text())["machine"].get("cpu"),
        ):
            assert not secret or secret.encode() not in text, (name, secret)
    with safe_open(folder / "checkpoints" / "epoch-002.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith("momentum.")]  # noqa: SIM118 - it is no dict


def test_the_card_tells_the_run(run: Path, tmp_path: Path) -> None:
    text = (publishable(run, tmp_path / "out", "someone/birds", licence="mit") / "README.md").read_text()
    card, results = ModelCard(text), json.loads((run / "results.json").read_text())
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "mit",
        "fastlift",
        "image-classification",
    )
    told = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert told["Overall accuracy"] == pytest.approx(results["metrics"]["accuracy"] / 100, abs=1e-4)
    assert 'fastlift.from_pretrained("someone/birds")' in text
    assert f"| Overall accuracy | {results['metrics']['accuracy']:.1f} % | " in text
    assert "It needs `" in text
    yaml.safe_load(text.split("---")[1])
    without = (publishable(run, tmp_path / "other", "someone/birds") / "README.md").read_text()
    assert "No licence was stated" in without


def test_names_of_classes_stay_text_in_the_card(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "run.json", "data.json", "results.json"):
        data = json.loads((run / name).read_text())
        for part in (data, data.get("data", {})):
            if isinstance(part.get("class_names"), list):
                part["class_names"][0] = "a|b <img src=x>\n# [c](http://x)"
        (copy / name).write_text(json.dumps(data))
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    text = (publishable(copy, tmp_path / "out", "someone/birds") / "README.md").read_text()
    assert r"a\|b \<img src=x\> \# \[c\](http://x)" in text


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("nobody/birds", 403, "your token may not do this"),
        ("someone/birds", 401, "it asks who you are"),
    ],
)
def test_who_may_not_push_is_told(
    name: str, code: int, said: str, run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code == 401:
        monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match=f"push to {name}: the hub answers {code}: {said}"):
        push(run, name)


def test_what_is_no_run_is_refused(run: Path, hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["someone/other"] = [("0" * 40, {"README.md": b"# other"})]
    with pytest.raises(UserError, match="someone/other holds no run of fastlift"):
        fastlift.from_pretrained("someone/other")
    with pytest.raises(UserError, match="nobody/nothing: the hub answers 404"):
        fastlift.from_pretrained("nobody/nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not empty: name a new folder"):
        publishable(run, tmp_path, "someone/birds")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(UserError, match="has not ended"):
        publishable(tmp_path / "begun", tmp_path / "out", "someone/birds")


@pytest.mark.parametrize("name", ["birds", "a/b/c", "/b", "a/", "a b/c", "../x", "a/..", "https://hub/a/b"])
def test_names_that_are_none_are_refused_before_anything_is_asked(name: str, run: Path, hub: HubServer) -> None:
    for asking in (lambda: push(run, name), lambda: fastlift.from_pretrained(name)):
        with pytest.raises(UserError, match="is no name of a repository on the hub: expected user/name"):
            asking()
    assert not hub.asked


def test_the_command(run: Path, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "someone/birds", "--to", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert not hub.asked
    assert main(["push", str(run), "someone/birds", "--license", "mit"]) == 0
    told: Any = capsys.readouterr()
    assert told.out == f"{hub.endpoint}/someone/birds\n"
    assert main(["push", str(run), "someone/birds", "--license", "none-that-is-known"]) == 1
    assert "license" in capsys.readouterr().err
