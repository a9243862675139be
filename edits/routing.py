"""Routed edits: requests kept as text; questions in their scope are answered by another model."""

# N edits, M remembered entries of all of them, Q questions, d width of an embedding

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from edits import routing_file
from edits.rows import check_one_each, checked_rows
from models.language_model import LanguageModel, Scores


@dataclass(frozen=True)
class Entry:
    """A remembered request: its prompt and what is to follow it."""

    prompt: str
    target: str


class Models(Protocol):
    """What decides about the scope of entries, and what answers inside it.

    Neither ever sees the answer to a question: only the question itself.
    """

    fingerprint: str
    """Tells the models of one training from those of another."""
    counterfactual: LanguageModel
    """Answers a question behind an entry; it shares the language model's vocabulary."""

    def keys(self, entries: Sequence[Entry]) -> Tensor:
        """Embeddings ``[M, d]`` of entries; d is 0 where entries cannot be embedded alone."""
        ...

    def queries(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[Q, d]`` of questions."""
        ...

    def log_similarity(
        self, prompts: Sequence[str], queries: Tensor, entries: Sequence[Entry], keys: Tensor
    ) -> Tensor:
        """Log-probability ``[Q, M]`` that each question is in the scope of each entry."""
        ...

    def condition(self, entry: Entry, prompt: str) -> str:
        """The question with the entry in front, as the counterfactual model is asked it."""
        ...


AT_ONCE = 1024  # questions compared with a cache at once
THRESHOLD = 0.5  # a question is in scope if its best similarity is more than this


@dataclass(frozen=True, eq=False)
class RoutedEdit:
    """N edits of one model; each is a cache of entries that questions are compared with.

    A question goes to the counterfactual model, behind the entry that is most similar to it, if
    that similarity is above one half, and to the language model otherwise.

    Args:
        caches: the entries of each edit.
        embedded: ``[M, d]``, the embeddings of all entries, cache by cache.
        models: the classifier and the counterfactual model.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.
    """

    caches: tuple[tuple[Entry, ...], ...]
    embedded: Tensor
    models: Models
    editor: str
    model: str

    def __len__(self) -> int:
        return len(self.caches)

    def select(self, index: Tensor | Sequence[int] | int) -> RoutedEdit:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = [index] if isinstance(index, int) else torch.as_tensor(index).tolist()
        parts = self.embedded.split([len(cache) for cache in self.caches])
        return replace(
            self,
            caches=tuple(self.caches[n] for n in index),
            embedded=torch.cat([parts[n] for n in index]) if index else self.embedded[:0],
        )

    def with_entries(self, entries: Sequence[Entry], embedded: Tensor | None = None) -> RoutedEdit:
        """The one edit with more entries; of those with one prompt the last given counts.

        Only the new entries are embedded, unless ``embedded`` [m, d] brings that along.

        Raises:
            ValueError: there are several edits.
        """
        self._check_single("added to")
        new = self.models.keys(entries) if embedded is None else embedded
        found = [*self.caches[0], *entries]
        last = {entry.prompt: at for at, entry in enumerate(found)}
        keep = sorted(last.values())
        joined = torch.cat([self.embedded, new.to(self.embedded)])
        if len(keep) < len(found):
            joined = joined[keep]
        return replace(self, caches=(tuple(found[at] for at in keep),), embedded=joined)

    def without(self, prompts: Sequence[str]) -> RoutedEdit:
        """The one edit without the entries that have these prompts.

        Raises:
            ValueError: there are several edits, or no entry has such a prompt.
        """
        self._check_single("taken from")
        held = {entry.prompt for entry in self.caches[0]}
        for prompt in prompts:
            if prompt not in held:
                raise ValueError(f"no entry of the edit has the prompt {prompt!r}")
        keep = [at for at, e in enumerate(self.caches[0]) if e.prompt not in set(prompts)]
        return replace(
            self,
            caches=(tuple(self.caches[0][at] for at in keep),),
            embedded=self.embedded[keep],
        )

    @torch.no_grad()
    def routes(self, prompts: Sequence[str], rows: Sequence[int] | Tensor | None) -> list:
        """For each question the entry it is in the scope of, or None.

        Raises:
            ValueError: rows out of range, not one for each question, or none for several edits.
        """
        rows = self._rows(prompts, rows)
        found: list[Entry | None] = [None] * len(prompts)
        asked = [n for n, row in enumerate(rows) if row >= 0 and self.caches[row]]
        if not asked:
            return found
        different = list(dict.fromkeys(prompts[n] for n in asked))
        place = {prompt: at for at, prompt in enumerate(different)}
        queries = self.models.queries(different)
        parts = self.embedded.split([len(cache) for cache in self.caches])
        for row in dict.fromkeys(rows[n] for n in asked):
            own = [n for n in asked if rows[n] == row]
            cache, keys = self.caches[row], parts[row]
            for some in (own[at : at + AT_ONCE] for at in range(0, len(own), AT_ONCE)):
                texts = [prompts[n] for n in some]
                vectors = queries[[place[text] for text in texts]]
                best, at = self.models.log_similarity(texts, vectors, cache, keys).exp().max(1)
                for n, value, index in zip(some, best.tolist(), at.tolist(), strict=True):
                    found[n] = cache[index] if value > THRESHOLD else None
        return found

    def edited(self, language_model: LanguageModel) -> RoutedModel:
        """The model as the edit makes it.

        Raises:
            ValueError: the edit belongs to another model.
        """
        self.check(language_model)
        return RoutedModel(language_model, self)

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model.

        Raises:
            ValueError: it is not.
        """
        if self.model != language_model.fingerprint:
            raise ValueError(
                f"this edit belongs to the model with fingerprint {self.model}, "
                f"not to {language_model.name!r} with {language_model.fingerprint}"
            )

    def save(self, path: str | Path, base: str = "") -> None:
        """Write a safetensors file, whole or not at all; ``base`` is the base model's name.

        It holds the entries and their embeddings, not the models.
        """
        caches = [[[e.prompt, e.target] for e in cache] for cache in self.caches]
        owners = {"editor": self.editor, "model": self.model, "base": base}
        owners["trained"] = self.models.fingerprint
        routing_file.write(Path(path), caches, self.embedded, owners)

    @classmethod
    def load(cls, path: str | Path, models: Models, language_model: LanguageModel) -> RoutedEdit:
        """Read what `save` wrote; the models are those that it was made with.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no routed edit's file, of another language model, or of other models.
        """
        caches, embedded, owners = routing_file.read(Path(path))
        entries = tuple(tuple(Entry(*texts) for texts in cache) for cache in caches)
        edit = cls(entries, embedded, models, owners["editor"], owners["model"])
        try:
            edit.check(language_model)
        except ValueError as error:
            raise ValueError(f"{path}, an edit of {owners['base']!r}: {error}") from error
        if owners["trained"] != models.fingerprint:
            raise ValueError(
                f"{path} was made with models of fingerprint {owners['trained']}, "
                f"not with these of {models.fingerprint}"
            )
        return edit

    def merge(self, language_model: LanguageModel, folder: str | Path) -> None:
        """Refuse: nothing of it is a change of weights.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"an edit of {self.editor} changes no weights, so it cannot be merged")

    def _check_single(self, what: str) -> None:
        if len(self) != 1:
            raise ValueError(f"only a single edit can be {what}, got {len(self)}: select one")

    def _rows(self, prompts: Sequence[str], rows: Sequence[int] | Tensor | None) -> list[int]:
        if rows is None:
            if len(self) != 1:
                raise ValueError(f"{len(self)} edits: rows must say which of them each row sees")
            return [0] * len(prompts)
        check_one_each(prompts, rows)
        return checked_rows(rows, len(self)).tolist()


@dataclass(frozen=True)
class RoutedModel:
    """A language model some of whose questions another model answers."""

    language_model: LanguageModel
    edit: RoutedEdit

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        rows: Tensor | Sequence[int] | None = None,
        tokens_per_batch: int = 4096,
    ) -> Scores:
        """As :meth:`LanguageModel.score`, edited.

        The language model is asked everything, so that answers out of scope are its own to the bit.
        """
        routes = self.edit.routes(prompts, rows)
        base = self.language_model.score(prompts, targets, tokens_per_batch=tokens_per_batch)
        own = [n for n, entry in enumerate(routes) if entry is not None]
        if not own:
            return base
        asked = self._conditions(prompts, routes, own)
        other = self.edit.models.counterfactual.score(
            asked, [targets[n] for n in own], tokens_per_batch=tokens_per_batch
        )
        answers = [list(kind) for kind in (base.log_probs, base.predicted, base.targets)]
        others = (other.log_probs, other.predicted, other.targets)
        for mine, theirs in zip(answers, others, strict=True):
            for n, answer in zip(own, theirs, strict=True):
                mine[n] = answer
        return Scores(*answers)

    def generate(
        self,
        prompts: Sequence[str],
        rows: Tensor | Sequence[int] | None = None,
        max_new_tokens: int = 16,
        tokens_per_batch: int = 4096,
    ) -> list[str]:
        """As :meth:`LanguageModel.generate`, edited."""
        routes = self.edit.routes(prompts, rows)
        own = [n for n, entry in enumerate(routes) if entry is not None]
        rest = [n for n, entry in enumerate(routes) if entry is None]
        asked = [(rest, [prompts[n] for n in rest], self.language_model)]
        conditions = self._conditions(prompts, routes, own)
        asked.append((own, conditions, self.edit.models.counterfactual))
        texts = [""] * len(prompts)
        for index, questions, model in asked:
            said = model.generate(questions, max_new_tokens, tokens_per_batch=tokens_per_batch)
            for n, text in zip(index, said, strict=True):
                texts[n] = text
        return texts

    def _conditions(
        self, prompts: Sequence[str], routes: Sequence[Entry | None], own: Sequence[int]
    ) -> list[str]:
        return [self.edit.models.condition(routes[n], prompts[n]) for n in own]
