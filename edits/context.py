"""Edits in context: requests kept as text that stands in front of questions."""

# N edits, Q questions

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from edits.edit import Route
from edits.layout import LETTERS, NONE, Layout, can_be_left_out, left_out
from edits.remembered import Memory, Remembered
from edits.spelling import closest, spelled
from models.language_model import LanguageModel
from models.prefixes import Prefixed

log = logging.getLogger(__name__)


class ContextHeader(TypedDict):
    """What a file says of edits in context; facts are `Fact`."""

    memories: list[list[tuple[str, str, list[str], int, str]]]
    layout: Layout
    retriever: str


@dataclass(frozen=True, eq=False, repr=False)
class ContextEdit(Remembered):
    """N edits of one model; each is a memory of facts, some of which stand in front of a question.

    The language model answers everything. A question that nothing is put in front of gets its
    answer to the bit.

    Args:
        memories: see `Remembered`.
        embedded: see `Remembered`.
        center: see `Remembered`.
        layout: which facts stand in front of a question, and how.
        retriever: see `Remembered`.
        editor: see `Remembered`.
        model: see `Remembered`.
    """

    kind = "context"
    header = ContextHeader
    layout_class = Layout
    layout: Layout

    @property
    def dropped(self) -> int:
        """How many demonstrations its facts have too few, since the model takes no more."""
        return sum(fact.dropped for memory in self.memories for fact in memory)

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """The language model reads the questions, those that facts are put before with them.

        Where some stay bare it reads all of them so first: their answers are then to the bit its
        own, whatever else is asked.
        """
        chosen = self.chosen(language_model, prompts, _owners(prompts, rows))
        plain = self.layout.plain == "{question}"
        put = [n for n, facts in enumerate(chosen) if facts or not plain]
        changed = self._put(language_model, put, [chosen[n] for n in put], prompts)
        if len(put) == len(prompts):
            return [changed]
        bare = Route(range(len(prompts)), prompts)
        return [bare, changed] if put else [bare]

    def found(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[bool] | None:
        """Whether some fact stands before each question; None where all facts always do."""
        if self.layout.choose == "all":
            return None
        return list(map(bool, self.chosen(language_model, prompts, _owners(prompts, rows))))

    def _put(
        self,
        language_model: LanguageModel,
        index: Sequence[int],
        chosen: Sequence[Memory],
        prompts: Sequence[str],
    ) -> Route:
        """The questions at ``index`` with their facts, as many as fit into the model."""
        layout, questions = self.layout, [prompts[n] for n in index]

        def text(n: int, missing: int) -> str:
            return layout.text(chosen[n], questions[n], missing)

        most = [can_be_left_out(facts) for facts in chosen]
        missing = left_out(language_model, most, text, layout.room)
        if any(missing):
            log.info("%s: %d parts of contexts do not fit", self.editor, sum(missing))
        texts = [text(n, count) for n, count in enumerate(missing)]
        before = map(layout.before, chosen, missing)
        return Route(
            index,
            texts,
            reader=Prefixed(language_model, dict(zip(texts, before, strict=True))),
        )

    @torch.no_grad()
    def chosen(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Sequence[int]
    ) -> list[Memory]:
        """The facts of edit ``rows[i]`` that stand before each question, as they stand there."""
        if self.layout.choose == "all":
            return [self.memories[row] if row >= 0 else () for row in rows]
        if self.layout.choose == "spelled":
            return self._spelled_alike(prompts, rows)
        near = self.near(language_model, prompts, rows)
        if self.layout.choose == "model":
            near = self._elected(language_model, prompts, near)
        return [facts[::-1] for facts in near]

    def _spelled_alike(self, questions: Sequence[str], rows: Sequence[int]) -> list[Memory]:
        """The fact whose prompt is spelled most like each question, if it is near enough."""
        near: list[Memory] = [()] * len(questions)
        for row in dict.fromkeys(row for row in rows if row >= 0):
            own = [n for n, other in enumerate(rows) if other == row]
            keys = [self.layout.identifier(fact) for fact in self.memories[row]]
            asked = [spelled(questions[n]) for n in own]
            for n, at in zip(own, closest(asked, keys, self.layout.distance), strict=True):
                near[n] = () if at is None else (self.memories[row][at],)
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
        ballots, letters = map(list, zip(*rows, strict=True))
        reader = Prefixed(language_model, dict(zip(ballots, ballots, strict=True)))
        scores = reader.score(ballots, letters)
        values = iter([float(log_probs.sum()) for log_probs in scores.log_probs])
        for n, offered in zip(asked, options, strict=True):
            own = [next(values) for _ in offered]
            best = max(range(len(own)), key=lambda at: (own[at], at))
            fact = offered[best]
            elected[n] = () if fact is None else (fact,)
        return elected


def _owners(prompts: Sequence[str], rows: Tensor | None) -> list[int]:
    return [0] * len(prompts) if rows is None else rows.tolist()
