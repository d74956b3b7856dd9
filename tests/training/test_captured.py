"""Captured steps give what the plain ones do, bit by bit, whatever changes between them; what cannot be captured is told.

On a CPU ops are recorded and replayed in the recording's memory (``tape``), on a GPU by CUDA itself.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from devices import CUDA, DEVICES, needs_fp8_product
from fixtures import Files, tiny_batch, tiny_learner
from tape import Dispatched, Tape
from torch import Tensor

from fastlift.data.loading.mixed import Mixed
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.tuners import TUNERS
from fastlift.training.averaging import AverageSettings
from fastlift.training.captured import WARM_UP, CapturedStep
from fastlift.training.distributed import Collectives
from fastlift.training.finite import Seen
from fastlift.training.learning_rate import LearningRate
from fastlift.training.optimizers import OptimizerName, OptimizerSettings
from fastlift.training.step import Learner

LOSSES = ("CE", "Focal", "LDAM", "CB", "GRW", "BS", "LA", "LADE")
RATE = LearningRate(0.05, epochs=3, steps_per_epoch=10)
STEPS, FULL, LAST = 20, 8, 5  # steps of a test, images of a batch and of the last one of an epoch


@pytest.fixture(autouse=True)
def _labels_are_looked_at_on_cpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlift_kernels.cosine_ce import op

    monkeypatch.setattr(op, "check_labels", lambda labels, classes: None)


@pytest.fixture(autouse=True)
def _ops_are_dispatched_on_cpus(request: pytest.FixtureRequest) -> Iterator[None]:
    on_gpu = hasattr(request.node, "callspec") and request.node.callspec.params.get("place") == "cuda"
    with nullcontext() if on_gpu else Dispatched():
        yield


def capture(some: Learner, said: list[str] | None = None) -> tuple[CapturedStep, Tape]:
    """On a GPU the tape counts nothing."""
    tape = Tape()
    is_on_cpu = some.sums.loss.device.type == "cpu"
    return CapturedStep(some, (said if said is not None else []).append, tape if is_on_cpu else None), tape


def batch_of(some: Learner, number: int, bad: int | None = None, size: int = FULL) -> tuple[Tensor, Tensor]:
    """Other images and labels in each step; those of the step ``bad`` hold a NaN."""
    images, labels = tiny_batch(some, number, size)
    if number == bad:
        images[2, 0, 0, 0] = torch.nan
    return images, labels.roll(number)


def rounded(lr: float) -> float:
    """As a captured step holds it."""
    return float(torch.tensor(lr, dtype=torch.float32))


def everything(some: Learner) -> dict[str, Tensor | float]:
    """All that a step changes."""
    both = {**some.parameters, **some.kept()}
    state: dict[str, Any] = {name: tensor.detach().cpu().clone() for name, tensor in both.items()}
    state |= {f"buffer.{name}": tensor.cpu().clone() for name, tensor in some.model.named_buffers()}
    sums, watch = some.sums, some.watch
    registers = {"loss": sums.loss, "correct": sums.correct, "left out": sums.left_out, "number": watch.number}
    state |= {name: tensor.item() for name, tensor in {**registers, "first": watch.first}.items()}
    state |= {"skipped": int(watch.skipped), "images": sums.images, "taken": watch.taken}
    return state | {"scale": some.scaler.get_scale(), "growth": some.scaler.state_dict().get("_growth_tracker", 0)}


def assert_same(one: Learner, other: Learner) -> None:
    mine, theirs = everything(one), everything(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        expected = theirs[name]
        same = torch.equal(value, expected) if isinstance(value, Tensor) else value == expected  # type: ignore[arg-type]
        assert same or (value is not expected and repr(value) == repr(expected) == "nan"), (
            f"{name}: {value}, not {expected}"
        )


def take(some: Learner, step: Callable[..., bool], numbers: range, bad: int | None = None) -> None:
    """Steps in two epochs of ten, the last of each with fewer images, as the loop takes them."""
    for number in numbers:
        epoch, place = divmod(number, 10)
        if place == 0:
            some.sums.restart()
        some.set_lr(rounded(RATE.at(epoch, place)))
        step(*batch_of(some, number, bad, LAST if place == 9 else FULL))


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "micro_batch", "mode"),
    [
        (torch.float32, None, "stop"),
        (torch.float32, 3, "skip"),
        (torch.bfloat16, 3, "stop"),
        (torch.float16, 3, "skip"),
        (torch.float16, None, "stop"),
    ],
)
def test_twenty_steps_are_the_same(
    tiny_clip: Files, place: str, dtype: torch.dtype, micro_batch: int | None, mode: Any
) -> None:
    """With two learning rates, partial last batches, a step that is not finite, and fp16's search for its scale."""
    options = {"dtype": dtype, "micro_batch": micro_batch, "on_nonfinite": mode}
    plain, found = (tiny_learner(tiny_clip, place, **options) for _ in range(2))
    step, tape = capture(found)
    take(plain, plain.step, range(STEPS), bad=6 if mode == "skip" else 16)
    take(found, step.step, range(STEPS), bad=6 if mode == "skip" else 16)
    assert_same(found, plain)
    if place == "cpu":
        # of each epoch the last step passes by; in the first so do those before the record
        assert (tape.records, tape.replays, tape.queued) == (1, STEPS - WARM_UP - 2, WARM_UP + 2)


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_clipping_and_a_rate_of_each_step_too(
    tiny_clip: Files, place: str, dtype: torch.dtype, name: OptimizerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What AdamW counts is counted by the replay; fp16 looks for its scale, and a step is not finite."""
    monkeypatch.setattr(f"{__name__}.RATE", LearningRate(0.05, 3, 10, "step", warm_up=8, ratio=0.1))
    settings = OptimizerSettings(lr=0.05, optimizer=name, clip_grad=0.5)
    options = {
        "dtype": dtype,
        "micro_batch": 3,
        "on_nonfinite": "skip",
        "optimizer": settings,
        "average": AverageSettings(0.9),
    }
    plain, found = (tiny_learner(tiny_clip, place, **options) for _ in range(2))
    step, tape = capture(found)
    take(plain, plain.step, range(STEPS), bad=6)
    take(found, step.step, range(STEPS), bad=6)
    assert_same(found, plain)
    counts = {float(count) for key, count in found.kept().items() if key.startswith("step.")}
    assert all(10 < count < STEPS for count in counts), "steps that were left out count"
    if place == "cpu":
        assert (tape.records, tape.replays) == (1, STEPS - WARM_UP - 2)


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_can_be_captured(tiny_clip: Files, place: str, loss: str) -> None:
    said: list[str] = []
    plain, found = (tiny_learner(tiny_clip, place, loss, micro_batch=3) for _ in range(2))
    step, _ = capture(found, said)
    take(plain, plain.step, range(8))
    take(found, step.step, range(8))
    assert_same(found, plain)
    assert said == ["training step captured in a CUDA graph, for 8 images"]


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_activation_checkpointing_too(tiny_clip: Files, place: str, recompute: Any) -> None:
    plain, found = (tiny_learner(tiny_clip, place) for _ in range(2))
    for some in (plain, found):
        some.model.vit.activation_checkpointing = recompute
    step, _ = capture(found)
    take(plain, plain.step, range(8))
    take(found, step.step, range(8))
    assert_same(found, plain)


CLASSIFIERS = ("linear", "l2", "layernorm", "text")


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize(
    "model",
    [
        *({"tuner": name} for name in sorted(set(TUNERS) - {"none", "adaptformer"})),
        *({"classifier": name} for name in CLASSIFIERS),
        {"classifier": "text", "text_tuner": ["coop", "clip_adapter", "projection", "lora"]},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_every_tuner_and_classifier_can_be_captured(tiny_clip: Files, place: str, model: dict[str, Any]) -> None:
    said: list[str] = []
    plain, found = (tiny_learner(tiny_clip, place, model=model) for _ in range(2))
    step, _ = capture(found, said)
    take(plain, plain.step, range(6))
    take(found, step.step, range(6))
    assert_same(found, plain)
    assert said == ["training step captured in a CUDA graph, for 8 images"]


@needs_fp8_product
@pytest.mark.parametrize("place", DEVICES)
def test_frozen_products_in_fp8_too(tiny_clip: Files, place: str) -> None:
    plain, found = (tiny_learner(tiny_clip, place, dtype=torch.bfloat16, micro_batch=4) for _ in range(2))
    for some in (plain, found):
        if place != "cpu":
            Fp8Settings("fp8").check(some.sums.loss.device, torch.bfloat16)
        assert Fp8Settings("fp8").build(some.model.vit)
    step, _ = capture(found)
    take(plain, plain.step, range(6))
    take(found, step.step, range(6))
    assert_same(found, plain)


def _other_size(some: Learner, size: int) -> int:
    return 6


def _other_part(some: Learner, size: int) -> int:
    some.micro_batch = 2
    return size


def _other_mode(some: Learner, size: int) -> int:
    some.watch.mode = "skip"
    return size


def _other_checkpointing(some: Learner, size: int) -> int:
    some.model.vit.activation_checkpointing = "block"
    return size


def _other_memory(some: Learner, size: int) -> int:
    parameter = next(iter(some.parameters.values()))
    parameter.data = parameter.data.clone()
    return size


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("change", [_other_size, _other_part, _other_mode, _other_checkpointing, _other_memory])
def test_what_changes_is_captured_anew(tiny_clip: Files, place: str, change: Callable[[Learner, int], int]) -> None:
    plain, found = (tiny_learner(tiny_clip, place) for _ in range(2))
    step, tape = capture(found)
    for some, taken in ((plain, plain.step), (found, step.step)):
        size = FULL
        for number in range(12):
            if number == 6:
                size = change(some, size)
            taken(*batch_of(some, number, bad=9, size=size))
    assert_same(found, plain)
    if place == "cpu":
        assert (tape.records, tape.queued, tape.replays) == (2, 2 * WARM_UP, 12 - 2 * WARM_UP)


@pytest.mark.parametrize("place", DEVICES)
def test_a_state_that_is_put_back_is_gone_on_from(tiny_clip: Files, place: str) -> None:
    """As a checkpoint puts it back, into a learner that has captured its step already."""
    plain, found = (tiny_learner(tiny_clip, place) for _ in range(2))
    step, tape = capture(found)
    take(found, step.step, range(6))
    source = tiny_learner(tiny_clip, place)
    take(source, source.step, range(3))
    for some in (plain, found):
        some.model.load_trained({name: tensor.detach() for name, tensor in source.parameters.items()})
        some.take_kept(source.kept())
        some.sums.restart(float(source.sums.loss), int(source.sums.correct), source.sums.images)
        some.watch.restart(3, 0)
    take(plain, plain.step, range(3, 8), bad=5)
    take(found, step.step, range(3, 8), bad=5)
    assert_same(found, plain)
    assert found.watch.first_step() == 5
    if place == "cpu":
        assert tape.records == 1


@pytest.mark.parametrize("place", DEVICES)
def test_labels_of_the_whole_batch_of_their_own(tiny_clip: Files, place: str) -> None:
    """Those that a process has are a part of them: class weights are normalised over all."""
    plain, found = (tiny_learner(tiny_clip, place, "CB", micro_batch=3) for _ in range(2))
    step, _ = capture(found)
    for number in range(7):
        for some, taken in ((plain, plain.step), (found, step.step)):
            images, labels = batch_of(some, number)
            taken(images, labels, torch.cat([labels, labels.flip(0) // 2]))
    assert_same(found, plain)


def test_a_request_to_stop_is_heard_in_every_step(tiny_clip: Files) -> None:
    some = tiny_learner(tiny_clip)
    step, tape = capture(some)
    heard = [step.step(*batch_of(some, number), stop=lambda number=number: number % 2 == 0) for number in range(6)]
    assert heard == [True, False] * 3
    assert tape.replays == 6 - WARM_UP


@pytest.mark.parametrize("place", DEVICES)
def test_what_waits_for_the_gpu_is_not_captured(tiny_clip: Files, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    plain, found = (tiny_learner(tiny_clip, place) for _ in range(2))
    for some in (plain, found):
        monkeypatch.setattr(some.loss, "share", lambda theirs, whole: float(theirs.float().mean()) / 4, raising=False)
        some.micro_batch = 4
    step, tape = capture(found, said)
    take(plain, plain.step, range(7))
    take(found, step.step, range(7))
    assert_same(found, plain)
    assert len(said) == 1
    assert said[0].startswith("training step not captured in a CUDA graph: the host waits in it for the GPU (")
    assert tape.records == 0


def test_what_breaks_the_record_is_told_once(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    plain, found = (tiny_learner(tiny_clip) for _ in range(2))
    step, tape = capture(found, said)
    record = tape.record

    def broken(work: Callable[[], object], collectives: Collectives) -> Callable[[], object]:
        record(work, collectives)
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(tape, "record", broken)
    take(plain, plain.step, range(STEPS))
    take(found, step.step, range(STEPS))
    assert_same(found, plain)
    assert said == ["training step not captured in a CUDA graph: operation not permitted when stream is capturing"]
    assert (tape.queued, tape.records, tape.replays) == (STEPS, 1, 0)


def test_memory_that_a_partial_batch_lacks_is_the_graphs(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found = (tiny_learner(tiny_clip) for _ in range(2))
    step, tape = capture(found)
    held, queue = [False], tape.queue
    monkeypatch.setattr(tape, "forget", lambda: held.__setitem__(0, False))
    record = tape.record
    monkeypatch.setattr(tape, "record", lambda *given: (held.__setitem__(0, True), record(*given))[1])

    def tight(work: Callable[[], bool], on_wait: Any = None) -> bool:
        if held[0]:
            raise torch.OutOfMemoryError("out of memory")
        return queue(work, on_wait)

    monkeypatch.setattr(tape, "queue", tight)
    take(plain, plain.step, range(STEPS))
    take(found, step.step, range(STEPS))
    assert_same(found, plain)
    assert (tape.records, tape.replays) == (2, 2 * (9 - WARM_UP))


def test_no_memory_for_a_record(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    plain, found = (tiny_learner(tiny_clip) for _ in range(2))
    step, tape = capture(found, said)

    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr(tape, "record", full)
    take(plain, plain.step, range(8))
    take(found, step.step, range(8))
    assert_same(found, plain)
    assert said == ["training step not captured in a CUDA graph: memory ran out"]


def test_who_cannot_is_told_why(tiny_clip: Files) -> None:
    said: list[str] = []
    alone = tiny_learner(tiny_clip)
    step = CapturedStep(alone, said.append)
    assert isinstance(alone.optimizer.param_groups[0]["lr"], float), "the plain path is left as it is"
    step.step(*batch_of(alone, 0))
    assert alone.watch.taken == 1
    assert said == ["training step not captured in a CUDA graph: it runs on a CPU"]


@pytest.mark.parametrize("place", [CUDA])
def test_replays_neither_wait_nor_grow_and_give_memory_back(tiny_clip: Files, place: str) -> None:
    some = tiny_learner(tiny_clip, place, micro_batch=4)
    step, _ = capture(some)
    images, labels = batch_of(some, 0)
    held = []
    for _ in range(WARM_UP + 1):
        held.append(torch.cuda.memory_allocated(place))
        step.step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            step.step(images, labels)
            held.append(torch.cuda.memory_allocated(place))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(set(held[WARM_UP + 1 :])) == 1, held
    step.release()
    assert torch.cuda.memory_allocated(place) <= held[0] + 2**16, (
        held
    )  # gradients are gone, the optimiser's scalars are not


# What the tape sees: each of these is right step by step, and wrong in a graph


def _rate_by_value(some: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    step = some.optimizer.step

    def by_value(closure: Any = None) -> Any:
        groups = some.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = float(group["lr"].numpy())
        step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    monkeypatch.setattr(some.optimizer, "step", by_value)


def _number_by_value(some: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    look = some.watch.look

    def by_value(*given: Any) -> Seen:
        some.watch.number.fill_(some.watch.taken)
        return look(*given)

    monkeypatch.setattr(some.watch, "look", by_value)


@pytest.mark.parametrize("fault", [_rate_by_value, _number_by_value])
def test_values_of_the_host_are_seen(
    tiny_clip: Files, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    plain, found = (tiny_learner(tiny_clip, on_nonfinite="skip") for _ in range(2))
    step, tape = capture(found)
    fault(found, monkeypatch)
    take(plain, plain.step, range(STEPS), bad=8)
    take(found, step.step, range(STEPS), bad=8)
    assert tape.records
    with pytest.raises(AssertionError):
        assert_same(found, plain)


def test_what_waits_while_it_is_recorded_is_refused(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    some = tiny_learner(tiny_clip)
    look = some.watch.look
    monkeypatch.setattr(some.watch, "look", lambda *given: (float(given[0]), look(*given))[1])
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        Tape().record(lambda: some.step(*batch_of(some, 0)), some.world.collectives)


def test_a_record_does_nothing(tiny_clip: Files) -> None:
    some = tiny_learner(tiny_clip)
    before = everything(some)
    Tape().record(lambda: some.step(*batch_of(some, 0)), some.world.collectives)
    some.watch.taken, some.sums.images = 0, 0
    after = everything(some)
    assert all(torch.equal(v, after[k]) if isinstance(v, Tensor) else v == after[k] for k, v in before.items())  # type: ignore[arg-type]


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("loss", ["LA", "CB"])
def test_mixed_batches_are_captured(tiny_clip: Files, place: str, loss: str) -> None:
    """Other partners and shares in each step; a partial batch and a plain one are other kinds of step."""
    said: list[str] = []
    plain, found = (tiny_learner(tiny_clip, place, loss, micro_batch=3) for _ in range(2))
    step, tape = capture(found, said)
    for number in range(12):
        for some, take_one in ((plain, plain.step), (found, step.step)):
            images, labels = batch_of(some, number, size=LAST if number == 6 else FULL)
            share = torch.linspace(0.5, 1, len(labels), device=labels.device).roll(number)
            mixed = None if number == 7 else Mixed(labels.roll(1), share)
            take_one(images, labels, mixed=mixed)
    assert_same(found, plain)
    assert said == ["training step captured in a CUDA graph, for 8 images"]
    if place == "cpu":
        assert tape.replays == 12 - WARM_UP - 2
