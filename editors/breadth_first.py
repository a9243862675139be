"""Training weights on all requests of a group, epoch by epoch, for several groups side by side."""

# N edits, n target tokens

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from editors.descent import Descent, means
from editors.editor import Group
from editors.finetune import Texts
from editors.settings import at_least, one_of
from editors.weight_editor import WeightEditor
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from models.language_model import LanguageModel

MEANS = ("requests", "tokens")


@dataclass(frozen=True)
class Epochs:
    """In what order the requests of a group are gone through, and for how long.

    Attributes:
        most: how often at most.
        batch_size: requests to a step.
        shuffle: whether each epoch has an order of its own, drawn from seed and epoch alone.
        seed: of the orders.
        skip_below: a batch whose loss (nats per token) is below makes no step; None: all make one.
        stop_below: no epoch follows one whose mean loss is below; None: there are ``most``.
        mean_over: a batch's loss is the mean over its ``requests`` of each one's mean over its
            tokens, or the mean over all its ``tokens``.
    """

    most: int = 25
    batch_size: int = 100
    shuffle: bool = True
    seed: int = 0
    skip_below: float | None = 1e-2
    stop_below: float | None = 1e-2
    mean_over: str = "requests"

    def __post_init__(self):
        at_least(1, most=self.most, batch_size=self.batch_size)
        at_least(0, skip_below=self.skip_below, stop_below=self.stop_below, seed=self.seed)
        one_of("mean_over", self.mean_over, MEANS)

    def order(self, epoch: int, count: int) -> list[int]:
        """The places of ``count`` requests in an epoch's order."""
        if not self.shuffle:
            return list(range(count))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(count, generator=generator).tolist()

    def batches(self, count: int) -> Iterator[list[int]]:
        """The batches of all epochs, one after another."""
        for epoch in range(self.most):
            order = self.order(epoch, count)
            yield from (order[i : i + self.batch_size] for i in range(0, count, self.batch_size))


class Trained(Protocol):
    """The tensors that are trained: ``values``, those of each edit, and what they make of it."""

    values: list[list[Tensor]]

    def updates(self, numbers: Sequence[int]) -> dict[str, LowRank | Dense]:
        """What these edits change, layer by layer; differentiable where gradients are on."""
        ...


class BreadthFirst(WeightEditor):
    """Adam on tensors of a few layers; what they are is the method's.

    The requests of a group are trained together, as `Epochs` has it, each edit beside the others as
    if it were alone.
    """

    layers: Sequence[str]
    epochs: Epochs
    lr: float
    edits_per_batch: int

    @abstractmethod
    def start(self, edits: int) -> Trained:
        """The tensors of so many edits before the first step."""

    def slope(self, trained: Trained, number: int, at: int, gradient: Tensor) -> Tensor:
        """Direction of descent of an edit's tensor; laid out as the tensor is."""
        return gradient.contiguous()

    def project(self, trained: Trained, numbers: Sequence[int]) -> None:
        """Bring the tensors of these edits back into bounds, after a step; by default no bounds."""

    def finished(self, updates: dict[str, LowRank | Dense]) -> dict[str, LowRank | Dense]:
        """What is kept of the trained updates; by default all."""
        return updates

    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """One training run for each group, side by side."""
        size = self.edits_per_batch
        chunks = [groups[i : i + size] for i in range(0, len(groups), size)]
        return WeightEdit.stack([self.run(chunk)[0] for chunk in chunks])

    def run(self, groups: Sequence[Group]) -> tuple[WeightEdit, list[list[float]]]:
        """Train an edit for each of the groups, which are of one size, on the model as it now is.

        Returns:
            The N edits, and each one's loss at every batch it saw.
        """
        trained = self.start(len(groups))
        losses = train(
            self.language_model,
            groups,
            self.epochs,
            trained.values,
            lambda numbers: self._edit(trained.updates(numbers)),
            slope=partial(self.slope, trained),
            project=partial(self.project, trained),
            layers=self.layers,
            lr=self.lr,
            fused=self.language_model.device.type == "cpu",
        )
        with torch.no_grad():
            return self._edit(self.finished(trained.updates(range(len(groups))))), losses

    def _edit(self, updates: dict[str, LowRank | Dense]) -> WeightEdit:
        return WeightEdit(updates, self.name, self.language_model.fingerprint)


class Hooking(Protocol):
    """Edits in the making, whose tensors gradients flow to."""

    def hooks(
        self, language_model: LanguageModel, rows: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Run the model with row b of each batch seeing edit ``rows[b]``, until the block ends."""
        ...


@torch.enable_grad()
def train(
    language_model: LanguageModel,
    groups: Sequence[Group],
    epochs: Epochs,
    values: Sequence[Sequence[Tensor]],
    edits: Callable[[Sequence[int]], Hooking],
    slope: Callable[[int, int, Tensor], Tensor] | None = None,
    project: Callable[[list[int]], None] | None = None,
    layers: Sequence[str] = (),
    **descent: Any,
) -> list[list[float]]:
    """Train the tensors of an edit for each group, in place, on the model as it now is.

    Args:
        language_model: the model that is edited.
        groups: of one size.
        epochs: order of their requests, and when to stop.
        values: the tensors of each edit.
        edits: what the tensors of the edits with these numbers make of the model.
        slope: as of `Descent.run`.
        project: also.
        layers: all that is changed, if it is layers: blocks below run once.
        **descent: what else `Descent` takes.

    Returns:
        Each edit's loss at every batch that it saw.
    """
    requests = [request for group in groups for request in group]
    texts = Texts(language_model, requests, "target", layers)
    course = Course(epochs, len(groups), len(groups[0]))

    def losses(active: list[int]) -> Tensor:
        batch = course.next_batch()
        rows = [number * course.requests + at for number in active for at in batch]
        place = torch.arange(len(active)).repeat_interleave(len(batch))
        with edits(active).hooks(language_model, place if len(groups) > 1 else None):
            each, row = texts.token_losses(rows)
        place = place.to(each.device)
        if epochs.mean_over == "tokens":
            return means(each, place[row], len(active))
        return means(means(each, row, len(rows)), place, len(active))

    Descent(values, steps=course.steps, **descent).run(
        losses, course.done, slope, project, course.skipped
    )
    return course.losses


class Course:
    """Where the edits are in their epochs: all at the same batch.

    ``losses`` are those of each edit, batch by batch.
    """

    def __init__(self, epochs: Epochs, edits: int, requests: int):
        self.epochs, self.requests = epochs, requests
        self.losses: list[list[float]] = [[] for _ in range(edits)]
        self._batches = epochs.batches(requests)
        self._batch: list[int] = []
        self._sums = [0.0] * edits  # of the epoch's losses, over requests
        self._left = requests  # to see in this epoch
        self._through: set[int] = set()  # edits that have seen their last epoch

    @property
    def steps(self) -> int:
        """Batches in all epochs."""
        return self.epochs.most * -(-self.requests // self.epochs.batch_size)

    def next_batch(self) -> list[int]:
        """Go on to the next batch: places of requests in their group."""
        if not self._left:
            self._left, self._sums = self.requests, [0.0] * len(self._sums)
        self._batch = next(self._batches)
        self._left -= len(self._batch)
        return self._batch

    def done(self, active: list[int], values: Tensor) -> Tensor:
        """Which edits stop before a step: those that were through, or are, and skip this batch."""
        before = [number in self._through for number in active]
        for number, loss in zip(active, values.tolist(), strict=True):
            if number not in self._through:
                self._note(number, loss)
        through = torch.tensor([number in self._through for number in active])
        stops = torch.tensor(before) | (through & self.skipped(active, values).cpu())
        return stops.to(values.device)

    def skipped(self, active: list[int], values: Tensor) -> Tensor:
        """Which edits make no step at these losses."""
        least = self.epochs.skip_below
        return torch.zeros_like(values, dtype=torch.bool) if least is None else values < least

    def _note(self, number: int, loss: float) -> None:
        self.losses[number].append(loss)
        self._sums[number] += loss * len(self._batch)
        stop = self.epochs.stop_below
        if stop is not None and not self._left and self._sums[number] / self.requests < stop:
            self._through.add(number)
