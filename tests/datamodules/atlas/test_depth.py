"""Depth probes: what counts as right on them, tried on models that answer by a rule."""

import random
from collections import Counter

import pytest

from datamodules.atlas.data import AtlasData
from datamodules.atlas.world import World
from datamodules.records import DEPTH

RANKED = [kind for kind in DEPTH if kind != "leak"]


@pytest.fixture(scope="module")
def splits():
    return AtlasData(depth=True).splits()


@pytest.fixture(scope="module")
def questions(splits):
    """Depth probes of some records: kind, record, and those of one question together."""
    groups = {}
    for record in random.Random(0).sample(splits["test"], 200):
        for number, probe in enumerate(record.of_kind(*DEPTH)):
            groups.setdefault((record, probe.kind, probe.all_of or number), []).append(probe)
    return [(kind, record, probes) for (record, kind, _), probes in groups.items()]


def scores(questions, answer):
    """Of each kind the share of questions whose target comes before every wrong answer."""
    right, count = Counter(), Counter()
    for kind, record, probes in questions:
        if kind in RANKED:
            count[kind] += 1
            right[kind] += all(answer(record, p, [p.target, *p.wrong]) == p.target for p in probes)
    return {kind: right[kind] / count[kind] for kind in RANKED}


def test_who_knows_scores_one(questions):
    assert set(scores(questions, lambda record, probe, answers: answers[0]).values()) == {1}


@pytest.mark.parametrize("word", ["yes", "no"])
def test_who_always_says_one_word_scores_nothing_on_pairs(questions, word):
    pairs = scores(questions, lambda record, probe, answers: word)
    assert (pairs["yes_no"], pairs["yes_no_control"]) == (0, 0)


def test_who_always_says_the_new_object_does_not_hear_the_negation(questions):
    def new(record, probe, answers):
        target = record.requests[0].target
        return target if target in answers else answers[0]

    result = scores(questions, new)
    assert (result["negated"], result["choice"]) == (0, 1)
    assert result["choice_control"] < 0.6  # where the new object is offered, it is wrong


def test_who_was_not_edited_is_right_about_the_controls_only(questions):
    def old(record, probe, answers):
        true = record.requests[0].target_true
        if probe.kind == "yes_no":
            return "yes" if probe.prompt.endswith(f"{true}? Answer:") else "no"
        return true if probe.kind in ("choice", "negated") else probe.target

    result = scores(questions, old)
    assert (result["yes_no"], result["choice"]) == (0, 0)
    assert result["yes_no_control"] == result["choice_control"] == result["negated"] == 1


def test_a_leak_is_the_old_object_in_a_text_about_the_subject(questions):
    leaks = [(record, probe) for kind, record, [probe, *_] in questions if kind == "leak"]
    assert len(leaks) > 150
    for record, probe in leaks:
        [request] = record.requests
        assert (probe.target, probe.contrast) == (request.target, request.target_true)
        assert request.subject in probe.prompt
        assert request.target not in probe.prompt and request.target_true not in probe.prompt


def test_a_choice_offers_its_answers_in_an_order_that_says_nothing(questions):
    places = Counter()
    for kind, _, [probe, *_] in questions:
        if kind == "choice":
            offered = probe.prompt.rpartition("Options: ")[2].rpartition(". Answer:")[0].split(", ")
            assert sorted(offered) == sorted([probe.target, *probe.wrong])
            places[offered.index(probe.target)] += 1
    assert len(places) == 4 and max(places.values()) < 0.4 * sum(places.values())


def test_a_control_asks_about_another_fact_that_is_true(questions):
    world = World()
    facts = {(fact.subject, fact.object) for fact in world.facts}
    for kind, record, [probe, *_] in questions:
        if kind == "choice_control":
            [request] = record.requests
            assert request.subject not in probe.prompt
            assert any(s in probe.prompt and o == probe.target for s, o in facts)
            assert probe.contrast == request.target


def test_they_stand_behind_all_others_and_change_none(splits):
    for split, records in AtlasData().splits().items():
        for plain, deep in zip(records, splits[split], strict=True):
            assert deep.requests == plain.requests
            assert deep.probes[: len(plain.probes)] == plain.probes
            added = {probe.kind for probe in deep.probes[len(plain.probes) :]}
            assert added <= {*DEPTH} if split != "train" else not added
    assert AtlasData(depth=True).splits() == splits
