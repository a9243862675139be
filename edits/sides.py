"""Side memories: other weights of one layer, and which prompts they are for.

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024, https://arxiv.org/abs/2405.14768. A prompt is for the side memory that
changes what the layer says to it most, if that is about as much as for the requests in it.
"""

# N edits, M memories of all of them, B rows, T tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from edits.edit import State
from edits.gate import GatedEdit
from edits.storage import Source
from edits.updates import Dense

_PLAIN = ("layer", "activation", "ratio", "longest", "shard")


def distances(before: Tensor, after: Tensor, activation: str) -> Tensor:
    """How far apart two outputs ``[..., d_out]`` of the layer are once they are activated."""
    act = ACT2FN[activation]
    return torch.linalg.vector_norm(act(after) - act(before), dim=-1)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row's values ``[B, T]`` where it is masked; 0 of none."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def prompt_distances(values: Tensor, mask: Tensor, longest: int) -> Tensor:
    """How far each prompt is changed, given how far its tokens are, ``[B, T]``.

    It is their mean, and of prompts of more than ``longest`` tokens the largest one.
    """
    largest = values.masked_fill(~mask, 0).amax(1)
    return torch.where(mask.sum(1) > longest, largest, mean_over(values, mask))


@dataclass(frozen=True, eq=False, repr=False)
class SideEdit(GatedEdit):
    """N edits, each of one side memory at least.

    Args:
        weights: of each memory the change of the layer's weight, ``[M, d_in, d_out]``.
        least: of each memory the least distance of a request in it.
        requests: for each edit how many requests each of its memories holds.
        layer: linear map whose weight it is.
        activation: of the model, its name in ``transformers``.
        ratio: share of ``least`` from which on a prompt is for a memory.
        longest: see `prompt_distances`.
        shard: requests that a memory holds before it is closed; the last of an edit may be open.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.

    Raises:
        ValueError: they do not fit together.
    """

    kind = "sides"
    weights: Tensor
    least: tuple[float, ...]
    requests: tuple[tuple[int, ...], ...]
    layer: str
    activation: str
    ratio: float
    longest: int
    shard: int
    editor: str
    model: str

    def __post_init__(self):
        counts = {len(self.weights), len(self.least), sum(map(len, self.requests))}
        if self.weights.ndim != 3 or len(counts) != 1 or not all(self.requests):
            raise ValueError(
                f"side memories need weights [M, d_in, d_out] and as many distances and requests, "
                f"got {list(self.weights.shape)}, {len(self.least)} and {self.requests}"
            )

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def memories(self) -> list[range]:
        """For each edit where its memories are among all."""
        ends = list(accumulate(map(len, self.requests)))
        return [range(end - len(own), end) for end, own in zip(ends, self.requests, strict=True)]

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = [index] if isinstance(index, int) else torch.as_tensor(index).tolist()
        places = [place for n in index for place in self.memories[n]]
        return replace(
            self,
            weights=self.weights[places],
            least=tuple(self.least[place] for place in places),
            requests=tuple(self.requests[n] for n in index),
        )

    @property
    def parts(self) -> Dense:
        """The memories."""
        return Dense(self.weights)

    def choose(self, given: Tensor, output: Tensor, prompt: Tensor, books: Tensor) -> Tensor:
        """The memory of each row, see `GatedEdit`; the open one is asked first.

        Another one has to change the prompt more than it does, whether it is for the prompt or not.
        """
        chosen = torch.full_like(books, -1)
        for number in books[books >= 0].unique().tolist():
            rows = (books == number).nonzero()[:, 0]
            chosen[rows] = self._of_book(number, given[rows], output[rows], prompt[rows])
        return chosen

    def _of_book(self, number: int, given: Tensor, output: Tensor, prompt: Tensor) -> Tensor:
        far = torch.zeros(len(given), dtype=output.dtype, device=output.device)
        chosen = torch.full((len(given),), -1, device=output.device)
        places, is_open = self.memories[number], self.requests[number][-1] < self.shard
        if is_open:
            far = self._distance(places[-1], given, output, prompt)
            chosen[far >= self.ratio * self.least[places[-1]]] = places[-1]
        for place in places[: len(places) - is_open]:
            own = self._distance(place, given, output, prompt)
            nearer = (own > far) & (own > self.ratio * self.least[place])
            chosen, far = torch.where(nearer, place, chosen), torch.where(nearer, own, far)
        return chosen

    def _distance(self, place: int, given: Tensor, output: Tensor, prompt: Tensor) -> Tensor:
        after = output + given @ self.weights[place].to(given)
        apart = distances(output, after, self.activation)
        return prompt_distances(apart, prompt, self.longest)

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        return replace(self, weights=self.weights.to(device))

    def size(self, language_model: Any) -> dict[str, float]:
        """How many memories there are, and how many numbers they hold."""
        return {"memories": float(len(self.weights)), "numbers": float(self.weights.numel())}

    def state(self) -> State:
        """The weights, and all else as it is."""
        names = ("least", "requests", *_PLAIN)
        return {name: getattr(self, name) for name in names}, {"weights": self.weights}

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of.

        Raises:
            ValueError: tensors do not fit together.
        """
        requests = tuple(tuple(own) for own in header["requests"])
        owner: dict[str, Any] = {"editor": source.owner.editor, "model": source.owner.model}
        plain = owner | {name: header[name] for name in _PLAIN}
        return cls(tensors["weights"], tuple(header["least"]), requests, **plain)
