"""One optimiser step, and nothing else: forward, loss, backward, update, with sums that stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastlift.data.loading.mixed import Mixed
from fastlift.data.sampling.stream import largest_share
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.models.weights import check_fit
from fastlift.training.averaging import AverageSettings
from fastlift.training.class_shards import ShardedClassifier
from fastlift.training.distributed import Vote, World
from fastlift.training.finite import Watch
from fastlift.training.losses import Loss
from fastlift.training.optimizers import OptimizerSettings, state_of
from fastlift.training.reducer import Reducer
from fastlift.training.settings import OnNonFinite


@dataclass
class Sums:
    """Running sums of an epoch over all processes, on the device: loss times images, right predictions, images.

    Steps that are not finite count in none of them: ``left_out`` are their images among ``images``.
    """

    loss: Tensor
    correct: Tensor
    left_out: Tensor
    images: int = 0

    @classmethod
    def zeros(cls, device: torch.device) -> Sums:
        """Before the first step of an epoch."""
        count = torch.zeros((), dtype=torch.int64, device=device)
        return cls(torch.zeros((), dtype=torch.float64, device=device), count, count.clone())

    def restart(self, loss: float = 0.0, correct: int = 0, images: int = 0) -> None:
        """Go on from such sums, in the same memory, which a captured step adds to."""
        self.loss.fill_(loss)
        self.correct.fill_(correct)
        self.left_out.zero_()
        self.images = images

    def add(self, loss: Tensor, correct: Tensor, images: int, good: Tensor) -> None:
        """What the device adds for a batch: of its mean loss, right predictions, images; ``good`` says whether it counts."""
        self.loss += torch.where(good, loss.double() * images, 0.0)
        self.correct += torch.where(good, correct.to(self.correct), 0)
        self.left_out += torch.where(good, 0, images)

    def counted(self) -> int:
        """Images of the steps that were finite: waits for the device."""
        return self.images - int(self.left_out)

    def read(self) -> tuple[float, float]:
        """(mean loss, accuracy in %), zeros before the first image: waits for the device."""
        images = max(self.counted(), 1)
        return float(self.loss) / images, 100.0 * float(self.correct) / images


class Learner:
    """A model, its loss and the optimiser of what trains.

    Args:
        model: on its device, its compute dtype set.
        loss: of ``fastlift.losses``, on the same device.
        optimizer: which one, its learning rate and the rest of its settings.
        micro_batch: images at a time in memory; None for the whole batch. The gradient of a batch is the mean over its
            images, or the weighted mean of class-weighted losses, however micro-batches cut it and processes share it. LADE
            alone, which compares the images of a batch, compares those that are in memory at a time, of all processes.
        world: the processes that share each batch.
        on_nonfinite: what becomes of a step whose loss or gradients are not finite (see ``fastlift.training.finite``).
        only: what trains, where not all that can: the rest of what ``model.trained`` names stays as it is.
        average: whether an average of what trains is kept.

    Raises:
        ValueError: nothing in the model trains.
    """

    def __init__(
        self,
        model: LiftModel,
        loss: Loss,
        optimizer: OptimizerSettings,
        *,
        micro_batch: int | None = None,
        world: World | None = None,
        on_nonfinite: OnNonFinite = "stop",
        only: Literal["classifier"] | None = None,
        average: AverageSettings = AverageSettings(),  # noqa: B008 - frozen
    ) -> None:
        self.model, self.loss, self.only = model, loss, only
        self.parameters = {name: p for name, p in model.trained().items() if only is None or name.startswith("head.")}
        if not self.parameters:
            raise ValueError("nothing in this model trains")
        self.shard = model.classifier if isinstance(model.classifier, ShardedClassifier) else None
        self.micro_batch = micro_batch
        self.world = world or World()
        device = next(iter(self.parameters.values())).device
        is_fp16 = model.vit.compute_dtype is torch.float16
        # fp16 gradients underflow without a scale; other dtypes have fp32's range
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_fp16)
        self.optimizer = optimizer.build(self.parameters.values())
        self.clip_grad = optimizer.clip_grad
        self.average = average.build(self.parameters)
        self.sums = Sums.zeros(device)
        self.vote = Vote(device)
        summed = self.parameters.values() if self.shard is None else self.shard.summed(self.parameters.values())
        self.reducer = Reducer(summed, self.world, self.vote) if self.world.size > 1 else None
        loss.join(self.world)
        self.watch = Watch(device, on_nonfinite)

    def set_lr(self, lr: float) -> None:
        """Learning rate of the steps to come."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a captured step's, which reads it on the device
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def count(self, images: int) -> None:
        """What the host counts for a step of so many ``images``; all else of a step lies on the device."""
        self.watch.taken += 1
        self.sums.images += images

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        whole: Tensor | None = None,
        stop: Callable[[], bool] = lambda: False,
        mixed: Mixed | None = None,
    ) -> bool:
        """One update, and what it adds to ``sums``; never waits for a GPU.

        A step that is not finite changes nothing: the fused optimiser reads on the device whether to update.

        Args:
            images: [B, 3, S, S] in the compute dtype, this process's share of the batch; B may be 0 where others have some.
            labels: int64 [B].
            whole: int64 [W], the labels of the batch over all processes; default: ``labels``.
            stop: asked once a step whether this process shall stop.
            mixed: of mixed images, the rest of their labels; then ``labels`` are those of the larger shares, against which
                predictions count.

        Returns:
            whether any process shall stop: all get the same answer after the same step, with one process or on CPUs after
            this one, otherwise of the step before.
        """
        whole = labels if whole is None else whole
        # All processes have as many parts.
        share = largest_share(len(whole), self.world.size, together=1 if mixed is None else 2)
        part = self.micro_batch or max(share, 1)
        self._zero_gradients()
        loss_sum, correct = torch.zeros_like(self.sums.loss), torch.zeros_like(self.sums.correct)
        for start in range(0, share, part):
            rows = slice(start, start + part)
            some, theirs = images[rows], labels[rows]
            if self.shard is not None:
                self.shard.rows = min(part, share - start)
            elif not len(some):
                self.loss.without_images()
                continue
            mixes = None if mixed is None else mixed.of(rows)
            loss, predictions = self._loss(self._features(some), theirs, whole, mixes)
            if self.reducer is not None and start + part >= share:
                self.reducer.last_pass()
            self.scaler.scale(self.watch.guard(loss)).backward()
            loss_sum += loss.detach()
            correct += (predictions == theirs).sum()
        # Gradients are added up before they are unscaled: where one is not finite, no process takes the step. In fp16 they
        # overflow while the scaler looks for its scale, and it leaves those steps out by itself.
        if self.reducer is None:
            asked = stop()
            gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        else:
            if self.shard is not None:
                self.shard.flag()
            loss_sum, correct = self.reducer.add_up(loss_sum, correct, stop)
            if self.shard is not None:
                self.shard.spoil()
            asked, gradients = self.reducer.stopping, [self.reducer.gradients]
        scale = self.scaler.scale(torch.ones_like(loss_sum)) if self.scaler.is_enabled() else None
        seen = self.watch.look(loss_sum, gradients, scale)
        self.sums.add(loss_sum, correct, len(whole), seen.good)
        self.count(len(whole))
        if self.clip_grad is not None:
            self._clip(self.clip_grad, gradients)
        if not self.scaler.is_enabled():
            self.optimizer.found_inf = (~seen.good).float()  # type: ignore[attr-defined]  # as torch's own scaler hands it over
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(seen.updates)
        return asked

    def _clip(self, highest: float, gradients: list[Tensor]) -> None:
        """Scale the batch's gradient to a norm of ``highest`` where it is larger, on the device: the same factor on all ranks.

        What is not finite stays so, and the step was looked at before.
        """
        self.scaler.unscale_(self.optimizer)  # of fp16 alone
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.shard is not None:
            norm = self.shard.norm_with(norm)
        torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), highest, norm)

    def _loss(self, features: Tensor, labels: Tensor, whole: Tensor, mixed: Mixed | None) -> tuple[Tensor, Tensor]:
        """What a part of a batch adds to its mean loss, and the predictions for it."""
        classifier, is_part = self.model.classifier, len(labels) < len(whole)
        if mixed is None:
            loss, predictions = self.loss.on_features(classifier, features, labels)
            return (loss * self.loss.share(labels, whole) if is_part else loss), predictions
        loss, predictions = self.loss.on_mixed(classifier, features, labels, mixed)
        return (loss * self.loss.mixed_share(labels, whole, mixed) if is_part else loss), predictions

    def _zero_gradients(self) -> None:
        """One process lets autograd make them; several add to those in the buffer that they share."""
        if self.reducer is None:
            self.optimizer.zero_grad(set_to_none=True)
            return
        if self.shard is not None:
            self.shard.zero_grad(set_to_none=True)
        self.reducer.zero()

    def _features(self, images: Tensor) -> Tensor:
        """Of this rank's images [b, ...]: [b, D], also of none, where others have some."""
        with torch.set_grad_enabled(self.only is None):  # else nothing behind the classifier trains
            if len(images):
                return self.model.features(images)
            one = images.new_zeros(1, *images.shape[1:])  # so that dtype and gradients are as the others have them
            return self.model.features(one)[:0]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What trains, and what is ``kept``, on the first rank; all ranks take part where the classifier is split over them."""
        both = self.model.state(), self.kept()
        return both if self.shard is None else (self.shard.gathered(both[0]), self.shard.gathered(both[1]))

    def replicas(self) -> list[tuple[str, Tensor]]:
        """What trains, then what is ``kept``, as far as every rank has it alike."""
        both = [*self.model.state().items(), *self.kept().items()]
        return [(name, tensor) for name, tensor in both if self.shard is None or not self.shard.holds_part_of(name)]

    def kept(self) -> dict[str, Tensor]:
        """What a step goes on from beside what trains: the optimiser's state of it, and its average, named as in ``kept``."""
        average = {} if self.average is None else self.average.kept()
        return state_of(self.optimizer, self.parameters) | average

    def check_kept(self, kept: Mapping[str, Tensor], what: str = "what is given") -> None:
        """``kept`` can be this learner's: a wrong shape would have the optimiser's fused kernel write past its end.

        Raises:
            UserError: tensors that are missing, too many, of another shape or dtype, or not finite; the first ten named.
        """
        mine = self.kept()
        check_fit(dict(kept), mine, f"the optimiser's state in {what} does not fit this run's")
        wrong = [f"{name} is {kept[name].dtype}" for name in mine if kept[name].dtype != mine[name].dtype]
        wrong += [f"{name} is not finite" for name in mine if not kept[name].isfinite().all()]
        if wrong:
            shown = ", ".join(wrong[:10])
            raise UserError(f"the optimiser's state in {what} is none that it keeps ({len(wrong)} tensors): {shown}")

    def take_kept(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from what was ``kept``, on any device.

        Raises:
            UserError: as ``check_kept``; nothing is changed then.
        """
        self.check_kept(kept)
        for name, tensor in self.kept().items():
            tensor.copy_(kept[name])
