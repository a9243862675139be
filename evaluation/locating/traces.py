"""What causal tracing finds: a fact's map over blocks and tokens, effects, the best block."""

# F facts, T tokens, L blocks

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from datamodules.records import Request

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
SUBJECT_ROLES = 3
"""So many of `ROLES` are the subject's."""


@dataclass(frozen=True)
class Trace:
    """One fact's map over blocks and tokens.

    Attributes:
        request: the fact: its prompt and true answer.
        tokens: the prompt's T tokens as text.
        subject: first and last of the subject's tokens.
        clean: the answer's probability.
        corrupted: the same under noise, mean over draws.
        restored: for each kind the same with one state restored, ``[L, T]``. Before the subject
            nothing is to be restored.
    """

    request: Request
    tokens: list[str]
    subject: tuple[int, int]
    clean: float
    corrupted: float
    restored: dict[str, Tensor]

    def effects(self, kind: str) -> Tensor:
        """Indirect effect ``[L, roles]`` of restoring tokens of each role; NaN: there is none.

        The first subsequent token may also be the last one, and so may the subject's.
        """
        gain = self.restored[kind] - self.corrupted
        (first, last), end = self.subject, gain.shape[1] - 1
        spans = (
            (first, first),
            (first + 1, last - 1),
            (last, last),
            (last + 1, min(last + 1, end)),
            (last + 2, end - 1),
            (end, end),
        )
        return torch.stack([gain[:, a : b + 1].mean(1) for a, b in spans], 1)

    def line(self) -> dict[str, object]:
        """The same as JSON values."""
        return {
            "prompt": self.request.prompt,
            "answer": self.request.target_true,
            "tokens": self.tokens,
            "subject": list(self.subject),
            "clean": self.clean,
            "corrupted": self.corrupted,
            "restored": {kind: chances.tolist() for kind, chances in self.restored.items()},
        }


def effects(traces: Sequence[Trace]) -> dict[str, Tensor]:
    """Indirect effects of all facts, for each kind ``[F, L, roles]``."""
    kinds = traces[0].restored
    return {kind: torch.stack([trace.effects(kind) for trace in traces]) for kind in kinds}


@dataclass(frozen=True)
class Located:
    """What causal tracing found in a model.

    Attributes:
        model: its name.
        window: blocks whose feed-forward or attention outputs were restored together.
        traces: of the facts.
    """

    model: str
    window: int
    traces: Sequence[Trace]

    @cached_property
    def effects(self) -> dict[str, Tensor]:
        """Indirect effects of all facts, for each kind ``[F, L, roles]``."""
        return effects(self.traces)

    def run(self, data: str, split: str) -> dict[str, object]:
        """What was traced, of which data, and the recommended block, as JSON values."""
        layer, role = recommended(self.effects) or (None, None)
        count = len(self.traces)
        return {
            "model": self.model,
            "data": data,
            "split": split,
            "facts": count,
            "clean": sum(trace.clean for trace in self.traces) / count,
            "corrupted": sum(trace.corrupted for trace in self.traces) / count,
            "window": self.window,
            "layer": layer,
            "role": role,
        }


def recommended(effects: dict[str, Tensor]) -> tuple[int, str] | None:
    """The block to edit, and the role of token that says so, given `effects`.

    It is where feed-forward outputs at subject tokens of some role have the greatest mean effect
    (the middle of the window): in the authors' models that is the last subject token, and the block
    is the one that ROME edits. Never the last block, which no later token reads. None if ``mlp``
    was not traced.
    """
    if "mlp" not in effects:
        return None
    means = effects["mlp"][:, :, :SUBJECT_ROLES].nanmean(0)  # [L, roles], NaN: no such token
    means = means[: max(1, len(means) - 1)].nan_to_num(-1.0)
    block, role = divmod(int(means.argmax()), SUBJECT_ROLES)
    return block, ROLES[role]
