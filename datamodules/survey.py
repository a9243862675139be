"""The fields that Yao et al. (EMNLP 2023, https://arxiv.org/abs/2305.13172) added to records.

Their portability and locality files hold records of ZsRE and of CounterFact in ROME's format, each
with one field or two more:

* ``portability``: ``New Question`` and ``New Answer``, a fact about the new target or about the
  subject (one hop);
* ``inverse question``: answered by the subject (inverse relation; ZsRE);
* ``alternative_subject``: another name of the subject (subject replace), in ZsRE with
  ``alter_subject_question``;
* ``unrelated_relation``: ``question`` and ``object``, another attribute of the subject;
* ``distracting_neighborhood_prompts``: the edit as a sentence, then a neighbour's prompt.
"""

from __future__ import annotations

from datamodules.fields import Fields
from datamodules.records import Probe, Request


def one_hop(fields: Fields, request: Request) -> list[Probe]:
    """The question of ``portability``; which may name the new target: see `traps`."""
    if "portability" not in fields:
        return []
    portability = fields.inner("portability")
    question, answer = portability.text("New Question"), portability.text("New Answer")
    return [Probe("one_hop", question, answer, hops=2)]


def reversed_relation(fields: Fields, request: Request) -> list[Probe]:
    """The ``inverse question``."""
    if "inverse question" not in fields:
        return []
    return [Probe("reversed_relation", fields.text("inverse question"), request.subject)]


def subject_question(fields: Fields, request: Request) -> list[Probe]:
    """ZsRE's ``alter_subject_question``, whose name of the subject it need not hold literally."""
    if "alter_subject_question" not in fields:
        return []
    question, subject = fields.text("alter_subject_question"), fields.text("alternative_subject")
    if subject.casefold() not in question.casefold():
        fields.remark("alter_subject_question", "question lacks the alternative subject", subject)
    return [Probe("subject_alias", question, request.target, request.target_true)]


def subject_template(fields: Fields, request: Request, template: str) -> list[Probe]:
    """The prompt of the request about CounterFact's ``alternative_subject``."""
    if "alternative_subject" not in fields:
        return []
    prompt = template.replace("{}", fields.text("alternative_subject"))
    return [Probe("subject_alias", prompt, request.target, request.target_true)]


def locality(fields: Fields, request: Request, true: str) -> list[Probe]:
    """CounterFact's other attribution, and its neighbours behind the edit, which share ``true``."""
    probes = []
    if "unrelated_relation" in fields:
        other = fields.inner("unrelated_relation")
        probes.append(Probe("other_relation", other.text("question"), other.text("object")))
    if "distracting_neighborhood_prompts" in fields:
        probes += [
            Probe("distracting_neighbor", prompt, true, request.target)
            for prompt in fields.texts("distracting_neighborhood_prompts")
        ]
    return probes
