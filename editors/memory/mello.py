"""MeLLo: questions are answered in steps, and each step looks its answer up among the edits.

Zhong, Wu, Manning, Potts, Chen: "MQuAKE: Assessing Knowledge Editing in Language Models via
Multi-Hop Questions", EMNLP 2023, https://arxiv.org/abs/2305.14795, section 5.

Departures: facts are near by the cosine of their embeddings, where the authors' code takes dot
products of Contriever's; all questions take each round together; and one that sees no fact is not
asked in steps. In their notebook questions begin with "Qustion:", which ``steps.question`` can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from editors.editor import Editor, Group
from editors.memory.facts import CONFLICTS, fact_of, told
from editors.memory.retriever import retriever_of
from editors.settings import one_of
from edits.edit import Edit
from edits.loading import load
from edits.retrieval import directions
from edits.steps import Steps, StepsEdit
from models.language_model import LanguageModel


class Mello(Editor[StepsEdit]):
    """Remembers requests, and answers questions in steps.

    Args:
        language_model: the model to edit.
        steps: how questions are answered.
        retriever: see `retriever_of`.
        conflicts: of facts told twice, with two targets, the ``last`` counts; or ``refuse`` them.

    Raises:
        FileNotFoundError: there is no such retriever.
        ValueError: ``conflicts`` is neither.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        steps: Steps | None = None,
        retriever: str | None = None,
        conflicts: str = "last",
    ):
        one_of("conflicts", conflicts, CONFLICTS)
        self.language_model = language_model
        self.steps = steps or Steps()
        self.retriever = retriever
        self.conflicts = conflicts
        self.embedder = retriever_of(retriever)

    @torch.no_grad()
    def compute(self, groups: Sequence[Group], after: StepsEdit | None) -> StepsEdit:
        """See `Editor.compute`: each edit remembers the requests of its group.

        Raises:
            ValueError: ``after`` was made by other settings, or there are conflicts to refuse.
        """
        steps, model = self.steps, self.language_model
        kept = [told(group, steps.identifier, self.conflicts, after) for group in groups]
        memories = tuple(tuple(map(fact_of, group)) for group in kept)
        texts = [steps.compared(fact) for memory in memories for fact in memory]
        center = torch.zeros(self.embedder.width(model))
        embedded = directions(self.embedder.embed(model, texts), center)
        edit = StepsEdit(
            memories, embedded, center, steps, self.embedder, self.name, model.fingerprint
        )
        return edit if after is None else after.plus(edit)

    def load(self, path: str | Path) -> Edit:
        """An edit that was saved, to be used with this editor's retriever; see `Editor.load`."""
        return load(path, self.language_model, self.embedder)
