"""Prompts with all the targets that are asked for behind each, so that a prompt is read once.

A row holds a prompt and its targets one after another. A token sees the prompt and what stands
before it in its own target, at the place that it has there: its states are those of the prompt and
this target alone. Nothing is read for a target's last token, which predicts nothing that is asked.
"""

# B rows, T tokens, n target tokens of all rows

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from models.encoding import IGNORED, Batch, attention_bias, pad_right
from models.scores import Answer

HEADS = 128
"""Positions whose logits there are at a time: of a large vocabulary more would fill the memory."""


@dataclass(frozen=True)
class Asked:
    """Rows to read, and what each target token is predicted by.

    Attributes:
        batch: the rows; labels are not looked at.
        prompts: which of the prompts each row is.
        first: ``[B]``, the place that predicts the first token of each of a row's targets.
        row: ``[n]``, where target tokens are predicted, target by target.
        place: ``[n]``, the place there.
        targets: ``[n]``, the target tokens.
        branch: ``[B, T]``, 0 for the prompt and padding, k for its k-th target; None if all that a
            row holds is one sequence.
    """

    batch: Batch
    prompts: list[int]
    first: Tensor
    row: Tensor
    place: Tensor
    targets: Tensor
    branch: Tensor | None = None

    def to(self, device: torch.device) -> Asked:
        """The same rows there."""
        first, row, place, targets = (
            x.to(device) for x in (self.first, self.row, self.place, self.targets)
        )
        branch = None if self.branch is None else self.branch.to(device)
        return Asked(self.batch.to(device), self.prompts, first, row, place, targets, branch)

    @property
    def positions(self) -> Tensor:
        """Each token's place in the sequence of the prompt and its own target, ``[B, T]``."""
        assert self.branch is not None
        places = torch.arange(self.branch.shape[1], device=self.branch.device)
        before = (self.branch[:, None] < self.branch[:, :, None]) & (self.branch[:, None] > 0)
        return places - before.sum(2)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """See `attention_bias`."""
        assert self.branch is not None
        own, other = self.branch[:, :, None], self.branch[:, None]
        seen = ((other == 0) | (other == own)) & self.batch.attention_mask[:, None].bool()
        return attention_bias(seen.tril(), dtype)


def branched(
    prompts: Sequence[list[int]], targets: Sequence[Sequence[list[int]]], pad_id: int
) -> Asked:
    """A row for each prompt, with its targets' ids behind it."""
    read = [[ids[:-1] for ids in each] for each in targets]
    batch = pad_right(prompts, [[*chain(*each)] for each in read], pad_id)
    branch, row, place = torch.zeros_like(batch.input_ids), [], []
    for number, (prompt, each) in enumerate(zip(prompts, read, strict=True)):
        at = len(prompt)
        for count, ids in enumerate(each, start=1):
            branch[number, at : at + len(ids)] = count
            row += [number] * (len(ids) + 1)
            place += [len(prompt) - 1, *range(at, at + len(ids))]
            at += len(ids)
    several = any(len([ids for ids in each if ids]) > 1 for each in read)
    return Asked(
        batch,
        list(range(len(prompts))),
        torch.tensor([len(prompt) - 1 for prompt in prompts]),
        torch.tensor(row),
        torch.tensor(place),
        torch.tensor([token for each in targets for ids in each for token in ids]),
        branch if several else None,
    )


def each_alone(batch: Batch, prompts: list[int]) -> Asked:
    """A row for each target, as the batch has it."""
    row, position = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = batch.labels[row, position + 1]
    return Asked(batch, prompts, batch.asked, row, position, targets)


def targets_of(
    prompts: Sequence[str], targets: Sequence[str], behind: Sequence[int] | None
) -> list[list[int]]:
    """The numbers of each prompt's targets; ``behind`` says which prompt each target follows.

    Raises:
        ValueError: it does not; or, without it, there is not one target for each prompt.
    """
    if behind is None:
        if len(prompts) != len(targets):
            raise ValueError(f"got {len(prompts)} prompts but {len(targets)} targets")
        return [[number] for number in range(len(prompts))]
    if len(behind) != len(targets) or not all(0 <= n < len(prompts) for n in behind):
        raise ValueError(
            f"behind: expected the number of one of {len(prompts)} prompts for each of "
            f"{len(targets)} targets, got {list(behind)}"
        )
    own: list[list[int]] = [[] for _ in prompts]
    for target, number in enumerate(behind):
        own[number].append(target)
    return own


def likely(head: Callable[[Tensor], Tensor], asked: Asked, hidden: Tensor) -> Answer:
    """How likely all target tokens are, and what is likeliest in their places, ``[n]``.

    Args:
        head: hidden states ``[..., d]`` -> logits ``[..., V]``, in float32 at least.
        asked: what has been read.
        hidden: states before the head, ``[B, T, d]``.
    """
    at = asked.row * hidden.shape[1] + asked.place
    reads, read = at.unique(return_inverse=True)  # all targets of a prompt begin at one place
    states, targets = hidden.flatten(0, 1)[reads], asked.targets
    log_probs: list[Tensor] = []
    likeliest = torch.empty_like(targets)
    order = read.argsort(stable=True)
    for start in range(0, len(reads), HEADS):
        logits = head(states[start : start + HEADS])
        own = order[(read[order] >= start) & (read[order] < start + HEADS)]
        place = read[own] - start
        log_probs.append(logits[place, targets[own]] - logits.logsumexp(1)[place])
        likeliest[own] = logits.argmax(1)[place]
    return torch.cat(log_probs)[order.argsort()], likeliest, targets
