"""How far a judge agrees with labels: on answers of edited models about Atlas.

``atlas_answers.csv`` holds 200 of them; its making and its rule stand in ``README.md`` beside it.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scoring.answers import Verdict
from scoring.judging.judge import Case, Judge

LABELLED = Path(__file__).parent / "atlas_answers.csv"


@dataclass(frozen=True)
class Agreement:
    """Verdicts beside labels.

    Attributes:
        agreed: texts of which the judge says what the label says.
        judged: texts of which it says anything.
        asked: all texts.
        kappa: Cohen's, of what was judged: 1 is agreement, 0 that of chance.
    """

    agreed: int
    judged: int
    asked: int
    kappa: float


def labelled() -> list[tuple[Case, bool]]:
    """The texts, and whether each is right."""
    with LABELLED.open(newline="", encoding="utf-8") as file:
        return [(_case(row), row["label"] == "1") for row in csv.DictReader(file)]


def _case(row: dict[str, str]) -> Case:
    return Case(row["question"], (row["right"],), row["text"])


def agreement(judge: Judge) -> Agreement:
    """What the judge says of the labelled texts, and what they are."""
    cases = labelled()
    verdicts = judge.verdicts([case for case, _ in cases])
    return compared(verdicts, [label for _, label in cases])


def compared(verdicts: list[Verdict], labels: list[bool]) -> Agreement:
    """The same of any verdicts and labels."""
    pairs = Counter(
        (verdict.right, label)
        for verdict, label in zip(verdicts, labels, strict=True)
        if verdict.right is not None
    )
    judged, agreed = pairs.total(), pairs[True, True] + pairs[False, False]
    said, right = (sum(n for pair, n in pairs.items() if pair[at]) for at in (0, 1))
    chance = said * right + (judged - said) * (judged - right)  # over judged squared
    by_chance = chance / judged**2 if judged else 1.0
    kappa = (agreed / judged - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return Agreement(agreed, judged, len(labels), kappa)
