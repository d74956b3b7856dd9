"""Checkpoints that are damaged, another run's, or of no place in this run: none is gone on from, evaluated or exported."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, Told
from run_files import flip, newest, same_state

import fastlift
from fastlift.config import Config
from fastlift.engine.evaluate import evaluate_run
from fastlift.models.lift import LiftModel
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.identity import Identity
from fastlift.runs.train_state import Schedule, TrainState
from fastlift.system import sealed
from fastlift.system.sealed import Damaged
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

OURS = Identity("ours", "settings", "fp32")


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    run: Path, trained: Path, settings: Config
) -> None:
    flip(newest(run))
    told = Told()
    model = fastlift.load_run(run, ui=told)
    assert "epoch-002.safetensors is damaged" in told.lines[0]
    assert "epoch-001.safetensors is used instead" in told.lines[0]
    one = checkpoints.read(run / "checkpoints" / "epoch-001.safetensors").trained
    assert all(torch.equal(parameter, one[name]) for name, parameter in model.trained().items())
    with pytest.raises(Damaged, match=r"epoch-002.safetensors is damaged"):
        fastlift.load_run(run, "epoch-002")  # by its name
    fastlift.load_run(run, "epoch-001")

    told = Told()
    fastlift.train(settings, output=run, resume=True, ui=told)
    assert any("epoch-002.safetensors is damaged" in line for line in told.lines)
    same_state(run, trained, "epoch-002")  # what was lost is trained again, with the same bits


def test_figures_of_the_one_before_are_not_the_runs(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = json.loads((run / "results.json").read_text())["evaluations"]
    flip(newest(run))
    told = Told()
    rows = evaluate_run(run, ui=told)
    assert list(rows) == ["center@epoch-001"]
    assert sum("epoch-002.safetensors is damaged" in line for line in told.lines) == 1
    assert json.loads((run / "results.json").read_text())["evaluations"] == before | rows


def test_with_none_left_the_message_tells_the_way_on(run: Path, settings: Config) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    for use in (lambda: fastlift.load_run(run), lambda: fastlift.train(settings, output=run, resume=True)):
        with pytest.raises(
            fastlift.UserError, match=r"epoch-002.*epoch-001.*start again with: fastlift train --config"
        ):
            use()
    assert len(checkpoints.saved(run / "checkpoints")) == 2, "a list of what is there reads none of it"
    with pytest.raises(fastlift.UserError, match="there are: epoch-001, epoch-002"):
        runs.open_run(run).find_checkpoint("epoch-009")


def test_no_flipped_bit_is_ever_used(run: Path) -> None:
    """At places over the whole file, the header among them: the file is refused, and the one before is taken."""
    path, folder = newest(run), run / "checkpoints"
    identity, whole = runs.open_run(run).identity(), path.read_bytes()
    rng = np.random.Generator(np.random.Philox(3))
    header = 8 + int.from_bytes(whole[:8], "little")
    bits = np.concatenate([rng.integers(0, 8 * header, 150), rng.integers(8 * header, 8 * len(whole), 150)])
    for bit in bits.tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(Damaged):
            checkpoints.read(path, identity)
        chosen, reasons = checkpoints.newest(folder, identity)
        assert chosen == folder / "epoch-001.safetensors"
        assert any("epoch-002" in reason for reason in reasons), "it is named wherever the bit is"


def test_checkpoints_under_other_names_are_refused(run: Path) -> None:
    shutil.copy(run / "checkpoints" / "epoch-001.safetensors", newest(run))
    with pytest.raises(Damaged, match="not what its name says"):
        fastlift.load_run(run, "epoch-002")


# Train states


def learner(tiny_clip: Files, **settings: Any) -> Learner:
    options = {"tuner": "none"} | settings
    model: LiftModel = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, **options)
    return Learner(model, fastlift.losses.build("LA", CLASS_COUNTS), OptimizerSettings(lr=0.05))


def state(**changes: Any) -> TrainState:
    place = TrainState(1, 2, 7, 16, 12.5, 9, 3.0, "data", "classes", "weights", {}, OURS, ((0, 3),))
    return replace(place, **changes)


WRITTEN_BEFORE = (  # by the code of November 2026, in fp16
    '{"epoch": 2, "step": 2, "global_step": 12, "images": 16, "loss_sum": 10.604329228401184, "correct": 11, '
    '"seconds": 0.5855658569998923, "data": "11abb8a4c8900eba4a78cad00e1b3ce7", '
    '"classes": "d3f8d109b4a6dc5b9644bdcd2cf57ac1", "backbone": "014df654646f85fc1d5ec91d3622ab07", '
    '"scaler": {"scale": 8192.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, '
    '"_growth_tracker": 8}, "identity": {"run": "3659af8c86227787de868b3d13ab50b0", '
    '"settings": "bcb2c94dae33742452a04d6dedc47706", "dtype": "fp16"}, "plan": [[0, 3]], "skipped": 0, "format": 3}'
)


def test_the_layout_is_what_it_was() -> None:
    """To the byte, so that checkpoints of both sides of a change can be resumed; whole numbers stay whole."""
    found = TrainState.from_json(WRITTEN_BEFORE, Path("step-00000012.safetensors"))
    assert found.to_json() == WRITTEN_BEFORE
    assert (found.epoch, found.step, found.identity.dtype) == (2, 2, "fp16")
    assert isinstance(found.scaler["growth_interval"], int)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The same tensors with another train state, and a digest that holds."""
    tensors, texts = sealed.read(path)
    values = json.loads(texts["position"])
    text = change(values)
    sealed.write(path, tensors, {"position": text if isinstance(text, str) else json.dumps(values)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epoch": 99}, "epoch 99 of 3"),
        ({"step": 5}, "step 5 of 5"),
        ({"epoch": 3, "step": 1, "global_step": 16}, "step 1 of 5"),
        ({"global_step": 8}, "8 steps taken, where there should be 7"),
        ({"images": 17}, "17 images in 2 steps"),
        ({"correct": 17}, "17 of 16 images right"),
    ],
)
def test_places_that_are_not_in_the_run(changes: dict[str, Any], said: str) -> None:
    schedule = Schedule(epochs=3, steps_per_epoch=5, batch_size=8)
    state().check(Path("x"), schedule)
    with pytest.raises(fastlift.UserError, match=said):
        state(**changes).check(Path("x"), schedule)


def test_a_run_goes_on_from_the_place_before_one_that_is_not_in_it(run: Path, trained: Path, settings: Config) -> None:
    rewrite(newest(run), lambda values: values.update(global_step=values["global_step"] + 1))
    told = Told()
    fastlift.train(settings, output=run, resume=True, ui=told)
    assert any("no place in this run" in line and "epoch-001.safetensors is used" in line for line in told.lines)
    same_state(run, trained, "epoch-002")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", "1"),
        ("epoch", -1),
        ("epoch", 1.0),
        ("epoch", True),
        ("epoch", None),
        ("step", [0]),
        ("global_step", 10**400),
        ("images", {"a": 1}),
        ("loss_sum", float("nan")),
        ("loss_sum", float("inf")),
        ("loss_sum", "12"),
        ("seconds", None),
        ("data", 3),
        ("scaler", []),
        ("scaler", {"scale": "large"}),
        ("scaler", {"scale": float("nan")}),
        ("plan", []),
        ("plan", [[0]]),
        ("plan", [[0, -1]]),
        ("identity", None),
        ("identity", {"run": "a"}),
        ("identity", {"run": 1, "settings": "b", "dtype": "fp32"}),
        ("identity", {"run": "a", "settings": "b", "dtype": "int8"}),
    ],
)
def test_values_of_another_type(tiny_clip: Files, tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "some.safetensors"
    checkpoints.save(path, learner(tiny_clip), state())
    checkpoints.read(path)
    rewrite(path, lambda values: values.update({name: value}))
    for read in (checkpoints.read, checkpoints.read_train_state):
        with pytest.raises(Damaged, match=f"holds {name}|no JSON object"):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "{" + '"a":{' * 200_000,
        '{"epoch": ' + "1" * 5000 + "}",
        '{"epoch": 1}',
        "[]",
        "",
        "null",
        "{",
        '"x"',
    ],
    ids=["nested", "nested objects", "digits", "parts", "list", "empty", "null", "cut", "text"],
)
def test_train_states_that_are_none(tiny_clip: Files, tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.safetensors"
    checkpoints.save(path, learner(tiny_clip), state())
    rewrite(path, lambda values: text)
    with pytest.raises(fastlift.UserError, match=r"train state|layout"):
        checkpoints.read(path)


def test_another_format_is_refused(tiny_clip: Files, tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    checkpoints.save(path, learner(tiny_clip), state())
    rewrite(path, lambda values: values.update({"format": 99}))
    with pytest.raises(fastlift.UserError, match="layout 99"):
        checkpoints.read(path)


def test_a_place_after_the_runs_end_is_not_loaded(run: Path) -> None:
    beyond = newest(run).rename(run / "checkpoints" / "epoch-009.safetensors")
    text = sealed.read_metadata(beyond)["position"].replace('"epoch": 2', '"epoch": 9')
    sealed.write(beyond, sealed.read(beyond)[0], {"position": text})
    with pytest.raises(fastlift.UserError, match="no place in this run: it was saved after epoch 9 of 2"):
        fastlift.load_run(run)


# What the optimiser keeps


def expect_refusal(path: Path, kept: dict[str, torch.Tensor], some: Learner, said: str) -> None:
    before = {name: tensor.clone() for name, tensor in some.model.state_dict().items()}
    checkpoints.write(path, some.model.state(), kept, state())
    with pytest.raises(fastlift.UserError, match=said):
        checkpoints.restore(path, some)
    with pytest.raises(fastlift.UserError, match=said):
        some.take_kept(kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in some.model.state_dict().items())
    assert not any(buffer.any() for buffer in some.kept().values()), "nothing was taken over"


def test_momentum_that_does_not_fit_is_refused(tiny_clip: Files, tmp_path: Path) -> None:
    """A wrong shape had the fused kernel write past the buffer's end; a wrong dtype ended with a traceback."""
    some, path = learner(tiny_clip, tuner="adaptformer", rank=2), tmp_path / "some.safetensors"
    good = {name: buffer.clone() for name, buffer in some.kept().items()}
    name = "momentum.head.weight"
    one = good[name]
    expect_refusal(path, {}, some, f"{len(good)} tensors differ")
    expect_refusal(path, good | {name: one[:1]}, some, "head.weight: ")
    expect_refusal(path, good | {name: one.flatten()}, some, "head.weight: ")
    expect_refusal(path, good | {name: torch.zeros(0)}, some, "head.weight: ")
    expect_refusal(path, good | {"momentum.head.other": one.clone()}, some, "not in the model: momentum.head.other")
    expect_refusal(
        path, {key: value for key, value in good.items() if key != name}, some, "missing momentum.head.weight"
    )
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        expect_refusal(path, good | {name: one.to(dtype)}, some, "head.weight is torch")
    checkpoints.write(path, some.model.state(), good | {name: torch.full_like(one, torch.nan)}, state())
    with pytest.raises(Damaged, match=r"momentum.head.weight holds numbers that are not finite"):
        checkpoints.restore(path, some)
    with pytest.raises(fastlift.UserError, match=r"head.weight is not finite"):
        some.take_kept(good | {name: torch.full_like(one, torch.inf)})


def test_momentum_keeps_the_layout_of_what_it_belongs_to(tiny_clip: Files) -> None:
    """The fused kernel walks both memories alike, so a transposed buffer would be added to the wrong weights."""
    some = learner(tiny_clip)
    wanted = torch.randn_like(some.parameters["head.weight"])
    some.take_kept({"momentum.head.weight": wanted.T.contiguous().T})
    kept = some.kept()["momentum.head.weight"]
    assert torch.equal(kept, wanted)
    assert kept.stride() == some.parameters["head.weight"].stride()


def test_gradient_scalers_that_do_not_fit_are_refused(tiny_clip: Files, tmp_path: Path) -> None:
    some, path = learner(tiny_clip), tmp_path / "some.safetensors"
    checkpoints.save(path, some, state(scaler={"scale": 2.0}))
    with pytest.raises(fastlift.UserError, match="gradient scaler"):
        checkpoints.restore(path, some)
