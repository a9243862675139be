"""Probes of published files that measure no consequence of an edit: named, and some left out.

In the portability files of Yao et al. (EMNLP 2023) more than every fourth one-hop question names
the new target ("In which Indian state is the original language of X, Tamil, official?"): a model
that was never edited can answer it, and reported portability contains that floor.
"""

from __future__ import annotations

import re
from dataclasses import replace

from datamodules.fields import Trace
from datamodules.legible import folded
from datamodules.records import KINDS, Probe, Record

SHORT = 4
"""Characters of an answer, the blank before it included, that words begin with by chance."""
PUNCTUATION = re.compile(r"[^\w\s]")
NAMED = "one_hop question names the new target"
LAST = "one_hop answer is the new target"
CHANGED = "locality question is that of the request"
LACKING = "reversed_relation question does not name the new target"


def checked(record: Record, trace: Trace, drop_named_target: bool = True) -> Record:
    """The record without the probes that ask for nothing an edit has to do with.

    Left out are locality probes that put the very prompt of a request, whose answer is to change,
    and, if ``drop_named_target``, one-hop questions that name a new target. Remarks say so, and
    which one-hop answers are a new target (the edited fact is the last hop), and which questions of
    the reversed relation do not name it.
    """
    kept = []
    for probe in record.probes:
        reason = trap(probe, record)
        if reason is None:
            kept.append(probe)
            continue
        out = KINDS[probe.kind].local or (drop_named_target and reason == NAMED)
        trace.remark(probe.kind, f"{reason}: left out" if out else reason, probe.prompt)
        if not out:
            kept.append(probe)
    return record if len(kept) == len(record.probes) else replace(record, probes=tuple(kept))


def trap(probe: Probe, record: Record) -> str | None:
    """What is wrong with a probe, if anything."""
    targets = [request.target for request in record.requests]
    if KINDS[probe.kind].local:
        prompts = [folded(request.prompt) for request in record.requests]
        return CHANGED if folded(probe.prompt) in prompts else None
    if probe.kind == "one_hop":
        if any(names(probe.prompt, target) for target in targets):
            return NAMED
        return LAST if [folded(probe.target)] == [folded(target) for target in targets] else None
    if probe.kind == "reversed_relation":
        return None if any(names(probe.prompt, target) for target in targets) else LACKING
    return None


def names(question: str, answer: str) -> bool:
    """Whether a question has an answer in it, without regard to case and punctuation.

    It may go on ("a famous violinist" names the violin), but begins where a word does; a number or
    a short one ("US") stands by itself.
    """
    words, answer = _words(question), _words(answer).rstrip()
    alone = len(answer) <= SHORT or answer[-1].isdigit()
    return bool(answer) and (f"{answer} " if alone else answer) in words


def _words(text: str) -> str:
    """The letters and digits of a text, with one blank before and behind each word."""
    words = PUNCTUATION.sub("", folded(text)).split()
    return f" {' '.join(words)} "
