"""Edits that are memories of facts: what is added, removed, looked up and saved."""

# N edits, M facts of all of them, Q questions, d width of an embedding

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from edits.edit import Edit, State
from edits.layout import Fact
from edits.retrieval import OwnStates, Retriever, directions, mentioned, ranked
from edits.storage import Source
from models.language_model import LanguageModel

Memory = tuple[Fact, ...]


class Lookup(Protocol):
    """What a layout says of looking facts up; a frozen dataclass."""

    @property
    def retrieves(self) -> bool:
        """Whether facts are compared with questions by their embeddings."""
        ...

    @property
    def among(self) -> str:
        """Whether ``all`` facts can be near, or those whose subject is ``mentioned``."""
        ...

    @property
    def k(self) -> int:
        """How many facts are near, at most."""
        ...

    @property
    def threshold(self) -> float | None:
        """Least cosine of those that are; None: any."""
        ...

    def identifier(self, fact: Fact) -> str:
        """What tells a fact from others: of those with one identifier the last counts."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Remembered(Edit):
    """N edits of one model; each is a memory of facts.

    Args:
        memories: the facts of each edit, in the order in which they were told.
        embedded: ``[M, d]``, the directions of all facts, memory by memory; d is 0 where nothing is
            retrieved.
        center: ``[d]``, what directions are seen from.
        layout: how facts are looked up and put.
        retriever: what embeds questions.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.

    Raises:
        ValueError: facts and embeddings are not one to one, or a fact lacks the subject by which
            it is looked up.
    """

    layout_class: ClassVar[type]
    memories: tuple[Memory, ...]
    embedded: Tensor
    center: Tensor
    layout: Any
    retriever: Retriever
    editor: str
    model: str

    def __post_init__(self):
        flat = self.embedded.ndim == 2 and self.center.shape == self.embedded.shape[1:]
        if not flat or len(self.embedded) != sum(map(len, self.memories)):
            raise ValueError("it is damaged: facts and embeddings are not one to one")
        if self.layout.among == "mentioned":
            for fact in (fact for memory in self.memories for fact in memory):
                if not fact.subject:
                    raise ValueError(
                        f"among=mentioned: the fact {fact.prompt!r} has no subject; expected one"
                    )

    def __len__(self) -> int:
        return len(self.memories)

    # several edits

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = [index] if isinstance(index, int) else torch.as_tensor(index).tolist()
        parts = self._parts()
        return replace(
            self,
            memories=tuple(self.memories[n] for n in index),
            embedded=torch.cat([parts[n] for n in index]) if index else self.embedded[:0],
        )

    def plus(self, other: Edit) -> Self:
        """The one edit with the facts of another one; of facts told twice the last counts.

        Raises:
            ValueError: there are several edits, or the other one was made otherwise.
        """
        if not isinstance(other, type(self)) or other._made != self._made:
            raise ValueError(f"an edit of {self.editor} goes on from edits of the same settings")
        if not torch.equal(self.center, other.center):
            raise ValueError(f"an edit of {self.editor} goes on from edits of the same pool")
        self._check_single("added to")
        other._check_single("added")
        facts = [*self.memories[0], *other.memories[0]]
        last = {self.layout.identifier(fact): at for at, fact in enumerate(facts)}
        return self._of(facts, torch.cat([self.embedded, other.embedded]), sorted(last.values()))

    def without(self, prompts: Sequence[str]) -> Self:
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

    def _of(self, facts: Sequence[Fact], embedded: Tensor, kept: list[int]) -> Self:
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

    def near(
        self, language_model: LanguageModel, questions: Sequence[str], rows: Sequence[int]
    ) -> list[Memory]:
        """The facts of edit ``rows[i]`` near each question, the nearest first.

        The order of memories makes no difference, and row -1 has no facts.
        """
        near: list[Memory] = [()] * len(questions)
        asked = [n for n, row in enumerate(rows) if row >= 0 and self.memories[row]]
        if self.layout.threshold is None and self.layout.among == "all":
            near = [self.memories[row] if row >= 0 else () for row in rows]
            asked = [n for n in asked if len(near[n]) > 1]  # one fact needs no comparison
        if not asked:
            return near
        different = list(dict.fromkeys(questions[n] for n in asked))
        place = {question: at for at, question in enumerate(different)}
        embedded = self.retriever.embed(language_model, different)
        queries, parts = directions(embedded, self.center), self._parts()
        for row in dict.fromkeys(rows[n] for n in asked):
            own = [n for n in asked if rows[n] == row]
            facts = self.memories[row]
            order = sorted(range(len(facts)), key=lambda at: facts[at].prompt)
            at = [place[questions[n]] for n in own]
            among = self._among([questions[n] for n in own], [facts[at].subject for at in order])
            found = ranked(queries[at], parts[row][order], self.layout.k, among)
            for n, values, indices in zip(own, *(part.tolist() for part in found), strict=True):
                near[n] = tuple(
                    facts[order[index]]
                    for value, index in zip(values, indices, strict=True)
                    if value >= self._least
                )
        return near

    @property
    def _least(self) -> float:
        """Of cosines that count as near."""
        return -2.0 if self.layout.threshold is None else self.layout.threshold

    def _among(self, questions: Sequence[str], subjects: Sequence[str]) -> Tensor | None:
        """Which of the subjects can be near each question."""
        return mentioned(questions, subjects) if self.layout.among == "mentioned" else None

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
        layout, name = cls.layout_class(**header["layout"]), header["retriever"]
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
