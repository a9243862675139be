"""Edits in context: requests kept as text that stands in front of questions."""

# N edits, M facts of all of them, Q questions, d width of an embedding

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypedDict

import torch
from torch import Tensor

from edits.edit import Edit, Route, State
from edits.layout import LETTERS, NONE, Fact, Layout, can_be_left_out, left_out
from edits.retrieval import OwnStates, Retriever, directions, ranked
from edits.storage import Source
from models.language_model import LanguageModel

log = logging.getLogger(__name__)
Memory = tuple[Fact, ...]


class ContextHeader(TypedDict):
    """What a file says of edits in context; facts are `Fact`."""

    memories: list[list[tuple[str, str, list[str], int]]]
    layout: Layout
    retriever: str


@dataclass(frozen=True, eq=False, repr=False)
class ContextEdit(Edit):
    """N edits of one model; each is a memory of facts, some of which stand in front of a question.

    The language model answers everything. A question that nothing is put in front of gets its
    answer to the bit.

    Args:
        memories: the facts of each edit, in the order in which they were told.
        embedded: ``[M, d]``, the directions of all facts, memory by memory; d is 0 where nothing is
            retrieved.
        center: ``[d]``, what directions are seen from.
        layout: which facts stand in front of a question, and how.
        retriever: what embeds questions.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.

    Raises:
        ValueError: facts and embeddings are not one to one.
    """

    kind = "context"
    header = ContextHeader
    memories: tuple[Memory, ...]
    embedded: Tensor
    center: Tensor
    layout: Layout
    retriever: Retriever
    editor: str
    model: str

    def __post_init__(self):
        flat = self.embedded.ndim == 2 and self.center.shape == self.embedded.shape[1:]
        if not flat or len(self.embedded) != sum(map(len, self.memories)):
            raise ValueError("it is damaged: facts and embeddings are not one to one")

    def __len__(self) -> int:
        return len(self.memories)

    @property
    def dropped(self) -> int:
        """How many demonstrations its facts have too few, since the model takes no more."""
        return sum(fact.dropped for memory in self.memories for fact in memory)

    # several edits

    def select(self, index: Tensor | Sequence[int] | int) -> ContextEdit:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = [index] if isinstance(index, int) else torch.as_tensor(index).tolist()
        parts = self._parts()
        return replace(
            self,
            memories=tuple(self.memories[n] for n in index),
            embedded=torch.cat([parts[n] for n in index]) if index else self.embedded[:0],
        )

    def plus(self, other: Edit) -> ContextEdit:
        """The one edit with the facts of another one; of those with one prompt the last counts.

        Raises:
            ValueError: there are several edits, or the other one was made otherwise.
        """
        if not isinstance(other, ContextEdit) or other._made != self._made:
            raise ValueError(f"an edit of {self.editor} goes on from edits of the same settings")
        if not torch.equal(self.center, other.center):
            raise ValueError(f"an edit of {self.editor} goes on from edits of the same pool")
        self._check_single("added to")
        other._check_single("added")
        facts = [*self.memories[0], *other.memories[0]]
        last = {fact.prompt: at for at, fact in enumerate(facts)}
        return self._of(facts, torch.cat([self.embedded, other.embedded]), sorted(last.values()))

    def without(self, prompts: Sequence[str]) -> ContextEdit:
        """The one edit without the facts that have these prompts.

        Raises:
            ValueError: there are several edits, or no fact has such a prompt.
        """
        self._check_single("taken from")
        facts = self.memories[0]
        held = {fact.prompt for fact in facts}
        for prompt in prompts:
            if prompt not in held:
                raise ValueError(f"no fact of the edit has the prompt {prompt!r}")
        kept = [at for at, fact in enumerate(facts) if fact.prompt not in set(prompts)]
        return self._of(facts, self.embedded, kept)

    def _of(self, facts: Sequence[Fact], embedded: Tensor, kept: list[int]) -> ContextEdit:
        memory = tuple(facts[at] for at in kept)
        return replace(self, memories=(memory,), embedded=embedded[kept])

    def _parts(self) -> tuple[Tensor, ...]:
        return self.embedded.split([len(memory) for memory in self.memories])

    @property
    def _made(self) -> tuple[object, ...]:
        return (self.layout, self.retriever.name, self.model, self.embedded.shape[1])

    def _check_single(self, what: str) -> None:
        if len(self) != 1:
            raise ValueError(f"only a single edit can be {what}, got {len(self)}: select one")

    # questions

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model, and its retriever the one it was made with.

        Raises:
            ValueError: one of the two is not so.
        """
        super().check(language_model)
        if not self.layout.retrieves:
            return
        own, width = self.embedded.shape[1], self.retriever.width(language_model)
        if own != width:
            raise ValueError(
                f"its facts are embedded {own} wide, the retriever {self.retriever.name!r} embeds "
                f"{width} wide; expected the retriever that it was made with"
            )

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """The language model reads the questions, those that facts are put before with them.

        Where some stay bare it reads all of them so first: their answers are then to the bit its
        own, whatever else is asked.
        """
        owners = [0] * len(prompts) if rows is None else rows.tolist()
        chosen = self.chosen(language_model, prompts, owners)
        behind = [n for n, facts in enumerate(chosen) if facts]
        texts = self._texts(
            language_model, [chosen[n] for n in behind], [prompts[n] for n in behind]
        )
        changed = Route(behind, texts)
        if len(behind) == len(prompts):
            return [changed]
        bare = Route(range(len(prompts)), prompts)
        return [bare, changed] if behind else [bare]

    def _texts(
        self, language_model: LanguageModel, chosen: Sequence[Memory], questions: Sequence[str]
    ) -> list[str]:
        """Questions behind their facts, as many as fit into the model."""
        layout = self.layout

        def text(n: int, missing: int) -> str:
            return layout.text(chosen[n], questions[n], missing)

        most = [can_be_left_out(facts) for facts in chosen]
        missing = left_out(language_model, most, text, layout.room)
        if any(missing):
            log.info("%s: %d parts of contexts do not fit", self.editor, sum(missing))
        return [text(n, count) for n, count in enumerate(missing)]

    @torch.no_grad()
    def chosen(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Sequence[int]
    ) -> list[Memory]:
        """The facts of edit ``rows[i]`` that stand before each question, as they stand there."""
        if not self.layout.retrieves:
            return [self.memories[row] if row >= 0 else () for row in rows]
        near = self._near(language_model, prompts, rows)
        if self.layout.choose == "model":
            near = self._elected(language_model, prompts, near)
        return [facts[::-1] for facts in near]

    def _near(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Sequence[int]
    ) -> list[Memory]:
        """The facts near each question, the nearest first; the order of memories is no matter."""
        near: list[Memory] = [()] * len(prompts)
        asked = [n for n, row in enumerate(rows) if row >= 0 and self.memories[row]]
        if self.layout.threshold is None:  # a memory of one fact needs no comparison
            near = [self.memories[row] if row >= 0 else () for row in rows]
            asked = [n for n in asked if len(near[n]) > 1]
        if not asked:
            return near
        different = list(dict.fromkeys(prompts[n] for n in asked))
        place = {prompt: at for at, prompt in enumerate(different)}
        embedded = self.retriever.embed(language_model, different)
        queries, parts = directions(embedded, self.center), self._parts()
        for row in dict.fromkeys(rows[n] for n in asked):
            own = [n for n in asked if rows[n] == row]
            facts = self.memories[row]
            order = sorted(range(len(facts)), key=lambda at: facts[at].prompt)
            at = [place[prompts[n]] for n in own]
            found = ranked(queries[at], parts[row][order], self.layout.k)
            for n, values, indices in zip(own, *(part.tolist() for part in found), strict=True):
                near[n] = tuple(
                    facts[order[index]]
                    for value, index in zip(values, indices, strict=True)
                    if self.layout.threshold is None or value >= self.layout.threshold
                )
        return near

    def _elected(
        self, language_model: LanguageModel, prompts: Sequence[str], near: Sequence[Memory]
    ) -> list[Memory]:
        """Of the facts near each question the one whose letter the model finds most probable.

        None of them where the letter that stands for none is at least as probable.
        """
        asked = [n for n, facts in enumerate(near) if facts]

        def ballot(at: int, missing: int) -> str:
            n = asked[at]
            return self.layout.asked(near[n][: len(near[n]) - missing], prompts[n])

        most = [len(near[n]) - 1 for n in asked]
        missing = left_out(language_model, most, ballot, self.layout.room)
        options = [
            (*near[n][: len(near[n]) - gone], None) for n, gone in zip(asked, missing, strict=True)
        ]
        rows = [
            (ballot(at, gone), NONE if fact is None else letter)
            for at, gone in enumerate(missing)
            for letter, fact in zip(f"{LETTERS}{NONE}", options[at], strict=False)
        ]
        elected: list[Memory] = [()] * len(prompts)
        if not rows:
            return elected
        scores = language_model.score(*map(list, zip(*rows, strict=True)))
        values = iter([float(log_probs.sum()) for log_probs in scores.log_probs])
        for n, offered in zip(asked, options, strict=True):
            own = [next(values) for _ in offered]
            best = max(range(len(own)), key=lambda at: (own[at], at))
            fact = offered[best]
            elected[n] = () if fact is None else (fact,)
        return elected

    # files

    def state(self) -> State:
        """The facts, how they are put, whose embeddings stand beside them; not the retriever."""
        header = {
            "memories": [[fact.state() for fact in memory] for memory in self.memories],
            "layout": asdict(self.layout),
            "retriever": self.retriever.name,
        }
        return header, {"embedded": self.embedded, "center": self.center}

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of; ``source.models`` is its retriever, if not the model.

        Raises:
            ValueError: it is another one, or facts and embeddings are not one to one.
        """
        retriever = OwnStates() if source.models is None else source.models
        layout, name = Layout(**header["layout"]), header["retriever"]
        if layout.retrieves and retriever.name != name:
            if source.models is None:
                raise ValueError(f"it is read by its editor's load: it has the retriever {name!r}")
            raise ValueError(f"its retriever is {name!r}, not {retriever.name!r}")
        return cls(
            tuple(tuple(map(Fact.of_state, memory)) for memory in header["memories"]),
            tensors["embedded"],
            tensors["center"],
            layout,
            retriever,
            source.owner.editor,
            source.owner.model,
        )
