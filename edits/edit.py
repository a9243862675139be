"""What an edit is to everyone who did not make it, and the edited model of all edits by hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from edits.rows import check_one_each
from models.language_model import Around, LanguageModel, Scores


class EditedModel(Protocol):
    """A language model that has been edited; it answers the same two questions as one that is not.

    ``rows[i]`` says which of the edits prompt i sees, -1 for none; without it there must be one
    edit, which all prompts see.
    """

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        rows: Tensor | Sequence[int] | None = None,
        tokens_per_batch: int = 4096,
    ) -> Scores:
        """As :meth:`LanguageModel.score`."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        rows: Tensor | Sequence[int] | None = None,
        max_new_tokens: int = 16,
        tokens_per_batch: int = 4096,
    ) -> list[str]:
        """As :meth:`LanguageModel.generate`."""
        ...


class Edit(Protocol):
    """A value that changes what a language model says, never the model; it holds N edits."""

    def __len__(self) -> int:
        """N, the number of edits that rows can choose from."""
        ...

    def select(self, index: Sequence[int]) -> Edit:
        """The edits at ``index``, in that order."""
        ...

    def edited(self, language_model: LanguageModel) -> EditedModel:
        """The model as the edit makes it."""
        ...

    def save(self, path: str | Path, base: str = "") -> None:
        """Write a safetensors file, whole or not at all; ``base`` is the base model's name."""
        ...


class HookedEdit(Edit, Protocol):
    """An edit that acts by hooks on the language model."""

    def around(self, language_model: LanguageModel, rows: Tensor | None) -> Around:
        """What surrounds each forward pass of ``score`` and ``generate``."""
        ...


@dataclass(frozen=True)
class HookedModel:
    """A language model whose forward passes run with an edit's hooks in place."""

    language_model: LanguageModel
    edit: HookedEdit

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        rows: Tensor | Sequence[int] | None = None,
        tokens_per_batch: int = 4096,
    ) -> Scores:
        """As :meth:`LanguageModel.score`, edited."""
        around = self._around(prompts, rows)
        return self.language_model.score(
            prompts, targets, around=around, tokens_per_batch=tokens_per_batch
        )

    def generate(
        self,
        prompts: Sequence[str],
        rows: Tensor | Sequence[int] | None = None,
        max_new_tokens: int = 16,
        tokens_per_batch: int = 4096,
    ) -> list[str]:
        """As :meth:`LanguageModel.generate`, edited."""
        around = self._around(prompts, rows)
        return self.language_model.generate(
            prompts, max_new_tokens, around=around, tokens_per_batch=tokens_per_batch
        )

    def _around(self, prompts: Sequence[str], rows: Tensor | Sequence[int] | None) -> Around:
        if rows is None:
            return self.edit.around(self.language_model, None)
        check_one_each(prompts, rows)
        return self.edit.around(self.language_model, torch.as_tensor(rows))
