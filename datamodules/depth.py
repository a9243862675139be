"""Probes of the group ``depth``: whether an edit is understood, or only said.

What counts as right, on all of them by what the model finds more likely, per token, but for the
leak (`scoring.scorers.probability_success`: the target before every wrong answer):

* ``yes_no``: a pair, "is it the new object?", to be answered with yes, and "is it the old one?",
  with no. Only both together count (``all_of``), so who always says yes, or no, scores 0.
* ``choice``: the new object before the old one and distractors, all of which the prompt offers.
* ``negated``: behind a negated statement the old object before the new one, since "X is not in NEW"
  is now false. Who always says the new object scores 0. A model that does not hear the negation
  is right before any edit: what an edit loses of that is the finding.
* ``leak``: a long text about the subject says the new object, and the old one, the contrast,
  nowhere (``replaces_old``).

``yes_no_control`` and ``choice_control`` put the first two about a fact that no request changes:
how well the model answers in this form at all.

Sources: HalluEditBench (Huang et al., ICLR 2025, https://arxiv.org/abs/2410.16251), yes, no and
choice; ThinkEval (Baser et al., 2025, https://arxiv.org/abs/2506.01386), the leak.
"""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.records import Probe

YES, NO, ANSWER = "yes", "no", "Answer:"


def yes_no(right: str, wrong: str, kind: str = "yes_no") -> list[Probe]:
    """A question to which the answer is yes, and one to which it is no."""
    return [
        Probe(kind, question, answer, contrast, all_of=kind)
        for question, answer, contrast in ((right, YES, NO), (wrong, NO, YES))
    ]


def choice(
    question: str, options: Sequence[str], right: str, old: str = "", kind: str = "choice"
) -> list[Probe]:
    """A question that offers its answers, in this order.

    Args:
        question: may end with "Answer:" and more; the options then stand before it.
        options: all of them.
        right: one of them.
        old: the wrong one that was right before the edit, if it is one of them.
        kind: which.
    """
    stem, found, rest = question.rpartition(ANSWER)
    stem, rest = (stem, rest) if found else (f"{question} ", "")
    prompt = f"{stem}Options: {', '.join(options)}. {ANSWER}{rest}"
    first, *others = sorted((o for o in options if o != right), key=lambda option: option != old)
    return [Probe(kind, prompt, right, first, distractors=tuple(others))]


def negated(prompt: str, old: str, new: str) -> list[Probe]:
    """A negated statement that lacks its object."""
    return [Probe("negated", prompt, old, new)]


def leak(prompt: str, new: str, old: str) -> list[Probe]:
    """The beginning of a text about the subject."""
    return [Probe("leak", prompt, new, old)]
