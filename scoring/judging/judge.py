"""What every judge shares: what is put to it, and that nothing is put to it twice.

The grades are those of Yang et al., "The Mirage of Model Editing" (WILD), ACL 2025,
https://arxiv.org/abs/2502.11177: right is what says a right answer, contradicts none and does not
repeat itself; A or B. Departures: the wording; all right answers are given, not one; the letters
are compared by their probabilities where those can be had, and a reply need not be the bare letter.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from datamodules.records import KINDS, Probe
from files import write_whole
from files.cache import cache_folder
from scoring.answers import Answer, Verdict

CHUNK = 40
"""Cases from one writing of verdicts to the next: what was paid for is not lost."""
RIGHT, WRONG = "A", "B"
UNPARSEABLE = "unparseable"
"""Why there is no verdict: the reply says neither letter."""
GROUPS = ("request", "generalization", "portability")
"""Kinds of these groups are judged: there the right answers are known."""
TEMPLATE = """\
Grade an answer to a question, given what would be right.

It is CORRECT if it gives one of the right answers, whatever the words, and nothing in it \
contradicts that.
It is INCORRECT if the right answer is missing or incomplete, if something else is given beside it \
or instead of it, or if the answer repeats itself.

Question: {question}
Right: {right}
Answer: {answer}

Is the answer
A: CORRECT
B: INCORRECT
Reply with the letter alone."""


@dataclass(frozen=True)
class Case:
    """A generated text that is to be judged, its question, and what would be right."""

    question: str
    right: tuple[str, ...]
    text: str

    @property
    def prompt(self) -> str:
        """What the judge reads."""
        text = self.text.strip() or "(nothing)"
        return TEMPLATE.format(question=self.question, right=" or ".join(self.right), answer=text)


class Judge(ABC):
    """Says of texts whether they are right; what it said once is kept in the cache."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """What decides verdicts beside the prompt; JSON values, and no secret."""

    @abstractmethod
    def ask(self, cases: Sequence[Case]) -> list[Verdict]:
        """The verdicts, at some cost; a case without one has the reason. It never fails."""

    @final
    def verdicts(self, cases: Sequence[Case]) -> list[Verdict]:
        """The verdicts, of those that are kept already at no cost.

        Kept is what the judge replied, also where it is unparseable; not that it did not reply.
        """
        paths = {case: self._path(case) for case in cases}
        known = {case: _stored(path) for case, path in paths.items()}
        new = [case for case, verdict in known.items() if verdict is None]
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            for case, verdict in zip(chunk, self.ask(chunk), strict=True):
                known[case] = verdict
                if verdict.reason in ("", UNPARSEABLE):
                    write_whole(paths[case], json.dumps([verdict.right]) + "\n")
        return [verdict for case in cases if (verdict := known[case]) is not None]

    @final
    def judged(self, probes: Sequence[Probe], answers: Sequence[Answer]) -> list[Answer]:
        """The answers, with a verdict where there is a text that can be judged."""
        cases = {
            at: Case(probe.prompt, probe.answers, answer.text)
            for at, (probe, answer) in enumerate(zip(probes, answers, strict=True))
            if answer.text is not None and KINDS[probe.kind].group in GROUPS
        }
        verdicts = dict(zip(cases, self.verdicts([*cases.values()]), strict=True))
        return [replace(answer, verdict=verdicts.get(at)) for at, answer in enumerate(answers)]

    def _path(self, case: Case) -> Path:
        text = json.dumps([self.identity(), case.prompt], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cache_folder() / "judge" / digest[:2] / f"{digest[2:34]}.json"


def verdict_of(reply: str) -> Verdict:
    """What a reply says: the one letter, or the one grade, that stands in it as a word."""
    for options in ((RIGHT, WRONG), ("CORRECT", "INCORRECT")):
        there = [option for option in options if re.search(rf"\b{option}\b", reply)]
        if len(there) == 1:
            return Verdict(there[0] == options[0])
    return Verdict(None, UNPARSEABLE)


def _stored(path: Path) -> Verdict | None:
    """The verdict in a file; None if there is none, or it is damaged."""
    try:
        [right] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    if right is None:
        return Verdict(None, UNPARSEABLE)
    return Verdict(right) if isinstance(right, bool) else None
