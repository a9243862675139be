"""Editing in context: requests stand as text in front of questions, and no weight changes.

One editor, five ways:

- every fact in front of every question;
- IKE (Zheng et al., EMNLP 2023, https://arxiv.org/abs/2305.12740): the nearest fact behind
  demonstrations of how facts are used;
- retrieval: the k nearest facts, if they are near enough;
- SCR (https://arxiv.org/abs/2505.18690): of the k nearest facts the one that the model chooses, or
  none;
- MemPrompt (Madaan et al., EMNLP 2022, https://arxiv.org/abs/2201.06009): behind the question, as
  its clarification, the fact whose prompt is spelled like it, or the nearest one.

Departures: IKE's demonstrations keep their shares at any number (its code cuts a shuffled list of
32), are never about the request's own subject, and are dropped where the model takes no more; where
a record has no neighbours, another question that its fact does not touch stands for them. SCR's
choice is by the probability of letters, where its code reads a written reply. MemPrompt's users
clarify half of what went wrong; here each request is a clarification. Its code keeps the embedding
of a clarification that was overwritten, so that later ones are found in the wrong place; and a
question that nothing clarifies is asked bare, unless ``layout.plain`` says otherwise.
"""

# N edits, M facts or requests of all of them, d width of an embedding

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from datamodules.pool import Pool
from datamodules.records import Record, Request
from editors.editor import Editor, Group
from editors.memory.demonstrations import Demonstrations
from editors.memory.facts import CONFLICTS, fact_of, told
from editors.memory.retriever import retriever_of
from editors.memory.thresholds import threshold_of
from editors.settings import one_of, shares
from edits.context import ContextEdit
from edits.edit import Edit
from edits.layout import Fact, Layout, left_out
from edits.loading import load
from edits.retrieval import directions, ranked
from models.language_model import LanguageModel

log = logging.getLogger(__name__)

CONTEXT = Layout()
IKE = Layout(
    choose="nearest", fact="New Fact: {prompt} {target}\n", frame="{facts}Prompt: {question}"
)
RAG = Layout(choose="nearest", k=2, key="prompt")
SCR = Layout(choose="model", k=5)
MEMPROMPT = Layout(
    choose="spelled",
    key="prompt",
    fact="clarification: {prompt} {target}.",
    frame="{question} | {facts}\n\n###\n\n/",
)


class InContext(Editor[ContextEdit]):
    """Puts requests in front of questions.

    Its name is that of its way: ``in_context`` for all facts, ``ike`` with demonstrations, ``rag``
    for the nearest facts, ``scr`` for the model's choice, ``memprompt`` for facts behind questions.

    Args:
        language_model: the model to edit.
        layout: which facts stand in front of a question, and how.
        demonstrations: what stands in front of a fact; None: nothing.
        pool: records for demonstrations, for the threshold, and whose mean embedding is taken off
            all others; None: none of that.
        retriever: see `retriever_of`.
        false_hits: with this share of the pool's questions that no fact is about, some fact is
            near; the layout's threshold is set so, if it has none. None: it is left as it is.
        conflicts: of facts told twice, with two targets, the ``last`` counts; or ``refuse`` them.

    Raises:
        FileNotFoundError: there is no such retriever.
        ValueError: demonstrations or false hits without a pool; or demonstrations where all facts
            stand in front of each question.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layout: Layout = CONTEXT,
        demonstrations: Demonstrations | None = None,
        pool: Pool | None = None,
        retriever: str | None = None,
        false_hits: float | None = None,
        conflicts: str = "last",
    ):
        self.language_model = language_model
        self.layout = layout
        self.demonstrations = demonstrations
        self.pool = pool
        self.retriever = retriever
        self.false_hits = false_hits
        self.conflicts = conflicts
        self.name = _name(layout, demonstrations)
        if demonstrations is not None and layout.choose != "nearest":
            raise ValueError(
                f"demonstrations stand before the nearest fact, got choose={layout.choose!r}"
            )
        one_of("conflicts", conflicts, CONFLICTS)
        if false_hits is not None:
            shares(false_hits=false_hits)
        self._check_pool()
        self.embedder = retriever_of(retriever if layout.retrieves else None)
        self._single = _single(pool)

    def prepare(self) -> None:
        """Embed the pool and set the threshold, once."""
        self._of_pool  # noqa: B018 taken once for all edits

    def _check_pool(self) -> None:
        takes = self.layout.retrieves and self.layout.threshold is None
        need = {
            "demonstrations": self.demonstrations is not None,
            "a threshold by false_hits": self.false_hits is not None and takes,
        }
        for what, needed in need.items():
            if needed and self.pool is None:
                raise ValueError(
                    f"{self.name} takes {what} from a pool, and there is none: set pool=records"
                )

    @cached_property
    def _of_pool(self) -> tuple[Tensor, Tensor, Layout]:
        """Directions of the pool's facts, their center, and the layout with its threshold."""
        model, layout = self.language_model, self.layout
        if not layout.retrieves:
            return torch.zeros(0, 0), torch.zeros(0), layout
        if not self._single:
            width = self.embedder.width(model)
            return torch.zeros(0, width), torch.zeros(width), layout
        texts = [layout.compared(fact_of(record.requests[0])) for record in self._single]
        embedded = self.embedder.embed(model, texts)
        center = embedded.mean(0)
        keys = directions(embedded, center)
        if layout.threshold is None and self.false_hits is not None:

            def queries(texts: Sequence[str]) -> Tensor:
                return directions(self.embedder.embed(model, texts), center)

            value = threshold_of(self._single, keys, queries, self.false_hits)
            layout = replace(layout, threshold=value)
        return keys, center, layout

    # edits

    @torch.no_grad()
    def compute(self, groups: Sequence[Group], after: ContextEdit | None) -> ContextEdit:
        """See `Editor.compute`: each edit remembers the requests of its group.

        Of requests with one prompt the last one counts, or they are refused. More demonstrations
        than the model takes are left out, the farthest first, and counted.

        Raises:
            ValueError: a request is too long to stand in front of its own question, or all facts of
                an edit are; ``after`` was made by other settings; or there are conflicts to refuse.
        """
        pool, center, layout = self._of_pool
        requests = [told(group, layout.identifier, self.conflicts, after) for group in groups]
        flat = [request for group in requests for request in group]
        embedded = self._embedded(flat, center)
        facts = iter(self._facts(flat, embedded, pool, layout))
        memories = tuple(tuple(next(facts) for _ in group) for group in requests)
        edit = ContextEdit(
            memories,
            embedded,
            center,
            layout,
            self.embedder,
            self.name,
            self.language_model.fingerprint,
        )
        edit = edit if after is None else after.plus(edit)
        self._check_lengths(edit)
        if edit.dropped:
            log.warning("%s: %s demonstrations dropped: too long", self.name, f"{edit.dropped:,}")
        return edit

    def load(self, path: str | Path) -> Edit:
        """An edit that was saved, to be used with this editor's retriever; see `Editor.load`."""
        own = self.embedder if self.layout.retrieves else None
        return load(path, self.language_model, own)

    def _embedded(self, requests: Sequence[Request], center: Tensor) -> Tensor:
        if not self.layout.retrieves:
            return torch.zeros(len(requests), 0)
        texts = [self.layout.compared(fact_of(request)) for request in requests]
        return directions(self.embedder.embed(self.language_model, texts), center)

    def _facts(
        self, requests: Sequence[Request], embedded: Tensor, pool: Tensor, layout: Layout
    ) -> list[Fact]:
        """The facts, each with its demonstrations as far as they fit."""
        examples = self.demonstrations
        if examples is None:
            return [fact_of(request) for request in requests]
        _, order = ranked(embedded, pool, len(pool))
        shown = [
            examples.before(request, self._near(request, row, examples.count), layout)
            for request, row in zip(requests, order.tolist(), strict=True)
        ]
        facts = [
            replace(fact_of(request), demonstrations=tuple(texts))
            for request, texts in zip(requests, shown, strict=True)
        ]

        def text(n: int, missing: int) -> str:
            return layout.text([facts[n]], requests[n].prompt, missing)

        most = [len(fact.demonstrations) for fact in facts]
        missing = left_out(self.language_model, most, text, layout.room)
        return [
            replace(fact, demonstrations=fact.demonstrations[count:], dropped=count)
            for fact, count in zip(facts, missing, strict=True)
        ]

    def _near(self, request: Request, order: Sequence[int], count: int) -> list[Record]:
        """The pool's records nearest to a request that are about other subjects."""
        own = request.subject.casefold()
        others = (self._single[at] for at in order if own not in self._single[at].subjects)
        return [record for record, _ in zip(others, range(count), strict=False)]

    def _check_lengths(self, edit: ContextEdit) -> None:
        """Refuse facts that leave no room for their own question."""
        model, layout = self.language_model, edit.layout
        together = layout.choose == "all"
        for memory in edit.memories:
            pairs = [(memory if together else (fact,), fact) for fact in memory]
            texts = [layout.framed(facts, fact.prompt) for facts, fact in pairs]
            lengths = model.lengths(texts, [fact.target for fact in memory])
            for fact, length in zip(memory, lengths, strict=True):
                if length > model.max_length:
                    what = f"{len(memory):,} facts" if together and len(memory) > 1 else "the fact"
                    raise ValueError(
                        f"{what} in front of {fact.prompt[:40]!r}... make {length:,} tokens; "
                        f"the model takes at most {model.max_length:,}"
                    )


def _single(pool: Pool | None) -> list[Record]:
    """The pool's records of one request.

    Raises:
        ValueError: there is a pool, and none of its records is.
    """
    if pool is None:
        return []
    single = [record for record in pool.records if len(record.requests) == 1]
    if not single:
        raise ValueError("pool: none of its records has a single request; expected some")
    return single


def _name(layout: Layout, demonstrations: Demonstrations | None) -> str:
    if layout.frame.index("{question}") < layout.frame.index("{facts}"):
        return "memprompt"
    if layout.choose == "nearest":
        return "rag" if demonstrations is None else "ike"
    return {"all": "in_context", "model": "scr", "spelled": "memprompt"}[layout.choose]
