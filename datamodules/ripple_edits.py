"""RippleEdits (Cohen et al., TACL 2024, https://arxiv.org/abs/2307.12976): consequences, by test.

Fields: ``edit`` with ``prompt``, a sentence that ends with the new target and a full stop,
``subject_id``, ``target_id`` and perhaps ``original_fact`` (or ``previous_fact``), the same about
what was true; and for each of `CRITERIA` a list of tests. A test has ``test_queries``, of which one
(``test_condition: OR``) or all (``AND``) are to be answered, and ``condition_queries``, which the
unedited model has to answer or the test does not count. A query has ``prompt`` and ``answers``,
each with ``value`` and ``aliases``.

Subjects and targets are ids of Wikidata, whose names no field holds. They stand in sentences of a
fixed wording for each relation ("The name of the mother of X is Y."), so two queries of the file
that ask for one relation of two subjects show where they stand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import ClassVar

from datamodules.editing import FileData
from datamodules.legible import same
from datamodules.reading import Fields
from datamodules.records import Probe, Record, RecordError, Request

CRITERIA = {
    "Logical_Generalization": "entailed",
    "Subject_Aliasing": "subject_alias",
    "Compositionality_I": "one_hop",
    "Compositionality_II": "one_hop",
    "Relation_Specificity": "other_relation",
    "Relation_Specifity": "other_relation",  # as the authors' page spells it
    "Forgetfulness": "kept_objects",
}
"""What the queries of a criterion are; a logical one that the subject answers is reversed."""
OLD = ("original_fact", "previous_fact")
Frame = tuple[tuple[str, ...], tuple[str, ...]]
"""The words before and behind the subject in the prompts of a relation."""


class RippleEditsData(FileData):
    """RippleEdits for ``Trainer``; by default its popular part.

    The queries of a test are one question: ``any_of`` where one suffices, ``all_of`` where all are
    needed. Its conditions are ``known``: pairs that the unedited model has to know, each with the
    first of its answers. A record whose subject or target cannot be told is left out; a query
    without an answer too, as a remark.
    """

    name = "ripple_edits"
    licence = "MIT"
    published: ClassVar = {
        "test": "https://media.githubusercontent.com/media/edenbiran/RippleEdits/main/data/"
        "benchmark/popular.json"
    }

    def begin(self, rows: Sequence[object]) -> None:
        """Learns from a file's queries where each relation has its subject."""
        prompts: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            for query in _queries(row):
                if query.get("query_type") == "regular" and not query.get("phrase"):
                    prompts[str(query.get("relation"))].add(str(query.get("prompt")))
        self.frames = {relation: frame(sorted(texts)) for relation, texts in prompts.items()}

    def record(self, id: str, fields: Fields) -> Record:
        """The record of an edit."""
        fields.require("edit")
        edit = fields.inner("edit")
        prompt, target, true = self._fact(edit)
        request = Request(prompt, self._subject(edit, prompt), target, true)
        probes = []
        for criterion, kind in CRITERIA.items():
            for number, test in enumerate(fields.each(criterion)):
                probes += _test(f"{criterion}-{number}", kind, test, request)
        return Record(id, (request,), tuple(probes))

    def _fact(self, edit: Fields) -> tuple[str, str, str | None]:
        """Prompt, new target and old one: where the sentences of both part, or the wording ends."""
        words = _sentence(edit)
        name = next((name for name in OLD if edit.has(name)), None)
        old = _sentence(edit.inner(name)) if name else []
        starts = list(self._starts(edit, words, old))
        if not starts or (len(starts) > 1 and not old):
            which = "several places" if starts else "no place"
            sentence = " ".join(words)
            raise RecordError(
                f"{edit.place}.target_id", f"has no name: it may begin at {which} in {sentence!r}"
            )
        start = max(starts)
        true = " ".join(old[start:]) or None
        target = " ".join(words[start:])
        if true is not None and same(true, target):
            raise RecordError(f"{edit.place}.prompt", f"{target!r} is the true object already")
        return " ".join(words[:start]), target, true

    def _starts(self, edit: Fields, words: list[str], old: list[str]) -> Iterator[int]:
        """Where the target may begin: behind the relation's last words, in both sentences."""
        before, behind = self._frame(edit)
        common = _common(words, old) if old else len(words)
        for at in range(len(before) + 1, len(words) - len(behind)):
            start = at + len(behind)
            if words[at:start] == list(behind) and start <= common:
                yield start

    def _subject(self, edit: Fields, prompt: str) -> str:
        before, behind = self._frame(edit)
        words = prompt.split()
        if tuple(words[: len(before)]) != before:
            raise RecordError(
                f"{edit.place}.subject_id",
                f"has no name: {prompt!r} is not worded as the relation's queries are",
            )
        return " ".join(words[len(before) : len(words) - len(behind)])

    def _frame(self, edit: Fields) -> Frame:
        relation = edit.text("relation")
        known = self.frames.get(relation)
        if known is None:
            raise RecordError(
                f"{edit.place}.subject_id",
                f"has no name: no two queries of the file ask for {relation} of two subjects",
            )
        return known


def frame(prompts: Sequence[str]) -> Frame | None:
    """The words that all prompts begin and end with; None for fewer than two of them."""
    words = [prompt.split() for prompt in prompts]
    if len(words) < 2:
        return None
    first, *others = words
    behind = min(_common(first[::-1], other[::-1]) for other in others)
    longest = min(map(len, words)) - behind - 1  # a subject has one word at least
    before = min(longest, *(_common(first, other) for other in others))
    return tuple(first[:before]), tuple(first[len(first) - behind :])


def _test(name: str, kind: str, test: Fields, request: Request) -> list[Probe]:
    """The queries of a test as one question."""
    condition = test.text("test_condition") if test.has("test_condition") else "OR"
    if condition not in ("OR", "AND"):
        raise RecordError(f"{test.place}.test_condition", f"{condition!r} is neither OR nor AND")
    known = tuple((query.text("prompt"), _answers(query)[0]) for query in _conditions(test))
    any_of, all_of = (name, "") if condition == "OR" else ("", name)

    def probe(query: Fields) -> Probe:
        answers = _answers(query)
        reverse = kind == "entailed" and any(same(a, request.subject) for a in answers)
        asks = "reversed_relation" if reverse else kind
        hops = 2 if kind == "one_hop" else 0
        answer, *aliases = answers
        prompt = query.text("prompt")
        return Probe(asks, prompt, answer, None, tuple(aliases), known, any_of, all_of, hops=hops)

    return list(test.usable("test_queries", probe))


def _conditions(test: Fields) -> list[Fields]:
    return list(test.each("condition_queries"))


def _answers(query: Fields) -> list[str]:
    """All values and their aliases, each once; RecordError if there is none."""
    texts = []
    for answer in query.each("answers"):
        texts.append(answer.text("value"))
        texts += answer.answers("aliases") if answer.has("aliases") else ()
    if not texts:
        raise RecordError(f"{query.place}.answers", "expected an answer, got none")
    return list(dict.fromkeys(texts))


def _queries(row: object) -> Iterator[dict]:
    """All queries of a row that are objects, whatever else it holds."""
    tests = (row.get(criterion) for criterion in CRITERIA) if isinstance(row, dict) else ()
    for test in (test for group in tests if isinstance(group, list) for test in group):
        for name in ("test_queries", "condition_queries"):
            queries = test.get(name) if isinstance(test, dict) else None
            yield from (q for q in queries or () if isinstance(q, dict))


def _sentence(fact: Fields) -> list[str]:
    """The words of a fact, without the full stop."""
    return fact.text("prompt").removesuffix(".").split()


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
