"""Edits that answer in steps: sub-questions, each of which looks a fact up.

MeLLo (Zhong, Wu, Manning, Potts, Chen: "MQuAKE: Assessing Knowledge Editing in Language Models via
Multi-Hop Questions", EMNLP 2023, https://arxiv.org/abs/2305.14795).
"""

# N edits, Q questions

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edits.edit import NOTHING, Route
from edits.layout import Fact, check_fields
from edits.remembered import Remembered
from models.generation import cut
from models.language_model import LanguageModel
from models.prefixes import Prefixed

log = logging.getLogger(__name__)
SUBQUESTION, FINAL, RETRIEVED = "Subquestion: ", "Final answer: ", "Retrieved fact: "


@dataclass(frozen=True)
class Steps:
    """How a question is answered in steps.

    Attributes:
        task: what stands before all questions, such as examples of answers in steps.
        question: how a ``{question}`` is put.
        rounds: sub-questions of a question, at most.
        tokens: of what the model writes in a round, at most.

    Raises:
        ValueError: an attribute is out of its range.
    """

    task: str = ""
    question: str = "Question: {question}"
    rounds: int = 4
    tokens: int = 200
    among = "all"
    k = 1
    threshold = None
    retrieves = True

    def __post_init__(self):
        for name in ("rounds", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_fields("question", self.question, ("question",))

    def identifier(self, fact: Fact) -> str:
        """What tells a fact from others: its prompt."""
        return fact.prompt

    def compared(self, fact: Fact) -> str:
        """What sub-questions are compared with: its sentence."""
        return f"{fact.prompt} {fact.target}"

    def start(self, question: str) -> str:
        """What the model goes on from."""
        return self.task + self.question.format(question=question)


@dataclass(frozen=True, eq=False, repr=False)
class StepsEdit(Remembered):
    """N edits of one model; each is a memory of facts that sub-questions look up.

    The model writes a sub-question and a tentative answer; the nearest fact is put behind them, and
    the model says whether it contradicts, and goes on, up to its final answer. All questions take
    each round together. It only generates: the final answers, or nothing where there is none.

    Args:
        memories: see `Remembered`.
        embedded: see `Remembered`.
        center: see `Remembered`.
        layout: how a question is answered in steps.
        retriever: see `Remembered`.
        editor: see `Remembered`.
        model: see `Remembered`.
    """

    kind = "steps"
    scores = False
    layout_class = Steps
    layout: Steps

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """The language model reads the beginnings of its answers in steps."""
        texts = list(map(self.layout.start, prompts))
        reader = Prefixed(language_model, dict.fromkeys(texts, self.layout.task))
        return [Route(range(len(prompts)), texts, reader=reader)]

    def generate(
        self,
        language_model: LanguageModel,
        prompts: Sequence[str],
        rows: Tensor | None,
        **options: Any,
    ) -> list[str]:
        """The final answers, before the first of the caller's ``stop`` strings.

        A question that sees no fact is answered by the model as it is.
        """
        owners = [0] * len(prompts) if rows is None else rows.tolist()
        bare = [n for n, row in enumerate(owners) if row < 0 or not self.memories[row]]
        questions = [n for n in range(len(prompts)) if n not in set(bare)]
        answers = [""] * len(prompts)
        plain = NOTHING.generate(language_model, [prompts[n] for n in bare], None, **options)
        stop, batch = options.get("stop", ()), options.get("tokens_per_batch")
        batch = {} if batch is None else {"tokens_per_batch": batch}
        finals = self._answered(
            language_model, [prompts[n] for n in questions], [owners[n] for n in questions], batch
        )
        for n, text in (*zip(bare, plain, strict=True), *zip(questions, finals, strict=True)):
            answers[n] = cut(text, stop)
        return answers

    def _answered(
        self,
        language_model: LanguageModel,
        questions: Sequence[str],
        rows: Sequence[int],
        options: dict[str, Any],
    ) -> list[str]:
        """The final answer to each question, empty where the model comes to none."""
        layout, answers = self.layout, [""] * len(questions)
        texts = dict(enumerate(map(layout.start, questions)))
        for _ in range(layout.rounds):
            texts = self._fitting(language_model, texts)
            reader = Prefixed(language_model, dict.fromkeys(texts.values(), layout.task))
            written = reader.generate(
                list(texts.values()),
                max_new_tokens=layout.tokens,
                stop=(RETRIEVED[:-1],),
                **options,
            )
            asked: dict[int, str] = {}
            for n, new in zip(list(texts), written, strict=True):
                texts[n] += new
                answers[n], subquestion = read(new)
                if subquestion is not None:
                    asked[n] = subquestion
            near = self.near(language_model, list(asked.values()), [rows[n] for n in asked])
            texts = {
                n: f"{texts[n]}{RETRIEVED}{layout.compared(fact)}."
                for n, (fact,) in zip(asked, near, strict=True)
            }
            if not texts:
                break
        return answers

    def _fitting(self, language_model: LanguageModel, texts: dict[int, str]) -> dict[int, str]:
        """Those that leave the model room to go on."""
        lengths = language_model.lengths(list(texts.values()), None, more=self.layout.tokens)
        most = language_model.max_length
        fit = [n for n, length in zip(texts, lengths, strict=True) if length <= most]
        if len(fit) < len(texts):
            log.info("%s: %d questions grow too long", self.editor, len(texts) - len(fit))
        return {n: texts[n] for n in fit}


def read(written: str) -> tuple[str, str | None]:
    """The final answer in what the model wrote, if there is one, or its sub-question.

    As in the authors' code the answer stands in the last line, the sub-question in the one before.
    """
    *_, before, last = ["", *written.strip().split("\n")]
    if last.startswith(FINAL):
        return last.removeprefix(FINAL), None
    return "", before.removeprefix(SUBQUESTION) if before.startswith(SUBQUESTION) else None
