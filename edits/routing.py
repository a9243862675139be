"""Routed edits: requests kept as text; questions in their scope are answered by another model."""

# N edits, M remembered entries of all of them, Q questions, d width of an embedding

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypedDict

import torch
from torch import Tensor

from edits.edit import Edit, Route, State
from edits.storage import Source
from models.language_model import LanguageModel


@dataclass(frozen=True)
class Entry:
    """A remembered request: its prompt and what is to follow it."""

    prompt: str
    target: str


class Models(Protocol):
    """What decides about the scope of entries, and what answers inside it.

    Neither ever sees the answer to a question: only the question itself.
    """

    @property
    def fingerprint(self) -> str:
        """Tells the models of one training from those of another."""
        ...

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


class RoutedHeader(TypedDict):
    """What a file says of routed edits; entries are `Entry`."""

    caches: list[list[tuple[str, str]]]
    trained: str


@dataclass(frozen=True, eq=False, repr=False)
class RoutedEdit(Edit):
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

    kind = "routed"
    header = RoutedHeader
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

    def plus(self, other: Edit) -> RoutedEdit:
        """The one edit with the entries of another one; of those with one prompt the last counts.

        Raises:
            ValueError: there are several edits, or the other one is of other models.
        """
        if not isinstance(other, RoutedEdit) or other.models is not self.models:
            raise ValueError(f"an edit of {self.editor} goes on from its own edits only")
        self._check_single("added to")
        other._check_single("added")
        entries = [*self.caches[0], *other.caches[0]]
        last = {entry.prompt: at for at, entry in enumerate(entries)}
        keep = sorted(last.values())
        embedded = torch.cat([self.embedded, other.embedded.to(self.embedded)])
        if len(keep) < len(entries):
            embedded = embedded[keep]
        return replace(self, caches=(tuple(entries[at] for at in keep),), embedded=embedded)

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

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """Questions in scope go to the counterfactual model, behind their entry.

        The language model reads everything, so that answers out of scope are its own to the bit.
        """
        entries = self.scope(prompts, [0] * len(prompts) if rows is None else rows.tolist())
        routes = [Route(range(len(prompts)), prompts)]
        inside = {n: entry for n, entry in enumerate(entries) if entry is not None}
        if inside:
            conditions = [self.models.condition(e, prompts[n]) for n, e in inside.items()]
            reader = self.models.counterfactual.rendered(language_model.rendering)
            routes.append(Route(list(inside), conditions, reader=reader))
        return routes

    @torch.no_grad()
    def scope(self, prompts: Sequence[str], rows: Sequence[int]) -> list[Entry | None]:
        """For each question the entry of edit ``rows[i]`` that it is in the scope of, or None."""
        entries: list[Entry | None] = [None] * len(prompts)
        questions = [n for n, row in enumerate(rows) if row >= 0 and self.caches[row]]
        if not questions:
            return entries
        distinct = list(dict.fromkeys(prompts[n] for n in questions))
        place = {prompt: at for at, prompt in enumerate(distinct)}
        queries = self.models.queries(distinct)
        parts = self.embedded.split([len(cache) for cache in self.caches])
        for row in dict.fromkeys(rows[n] for n in questions):
            together = [n for n in questions if rows[n] == row]
            cache, keys = self.caches[row], parts[row]
            for part in (together[at : at + AT_ONCE] for at in range(0, len(together), AT_ONCE)):
                texts = [prompts[n] for n in part]
                vectors = queries[[place[text] for text in texts]]
                best, at = self.models.log_similarity(texts, vectors, cache, keys).exp().max(1)
                for n, value, index in zip(part, best.tolist(), at.tolist(), strict=True):
                    entries[n] = cache[index] if value > THRESHOLD else None
        return entries

    def state(self) -> State:
        """The entries, whose models they are for, and their embeddings; not the models."""
        caches = [[[e.prompt, e.target] for e in cache] for cache in self.caches]
        return {"caches": caches, "trained": self.models.fingerprint}, {"embedded": self.embedded}

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of; ``source.models`` are those it was made with.

        Raises:
            ValueError: they are not, or entries and embeddings are not one to one.
        """
        models = source.models
        if not hasattr(models, "counterfactual"):
            raise ValueError(f"it is read by the editor that made it: {source.owner.editor}'s load")
        if header["trained"] != models.fingerprint:
            raise ValueError(
                f"it was made with models of fingerprint {header['trained']}, "
                f"not with these of {models.fingerprint}"
            )
        caches = tuple(tuple(Entry(*texts) for texts in cache) for cache in header["caches"])
        embedded = tensors["embedded"]
        flat = [entry for cache in caches for entry in cache]
        width = models.keys(flat[:1]).shape[1] if flat else embedded.shape[-1]
        if embedded.shape != (len(flat), width):
            raise ValueError("it is damaged: entries and embeddings are not one to one")
        return cls(caches, embedded, models, source.owner.editor, source.owner.model)

    def _check_single(self, what: str) -> None:
        if len(self) != 1:
            raise ValueError(f"only a single edit can be {what}, got {len(self)}: select one")
