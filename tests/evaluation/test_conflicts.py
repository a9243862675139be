"""Requests of one step that contradict each other are found, and a policy decides."""

import pytest

from datamodules.records import Record, Request
from evaluation.protocols.conflicts import describe, key, settle


def record(name, prompt, subject, target):
    return Record(name, (Request(prompt, subject, target),))


FIRST = record("first", "Lagos is a city in", "Lagos", "Sweden")
OTHER = record("other", "Tokyo is a city in", "Tokyo", "Sweden")
AGAIN = record("again", "Lagos is a city in", "Lagos", "Sweden")
CITIZENS = record("citizens", "The mayor of Lagos is", "Lagos", "Norway")
LATER = record("later", "LAGOS is  a city in", "LAGOS", "Japan")


def test_subject_and_relation_are_told_apart():
    assert key(FIRST.requests[0]) == ("lagos", "{} is a city in") == key(LATER.requests[0])
    assert key(FIRST.requests[0])[1] == key(OTHER.requests[0])[1]
    assert key(FIRST.requests[0])[0] == key(CITIZENS.requests[0])[0]
    assert len({key(r.requests[0]) for r in (FIRST, OTHER, CITIZENS)}) == 3


def test_there_is_no_conflict_between_different_facts_nor_in_saying_one_twice():
    records = [FIRST, OTHER, AGAIN, CITIZENS]
    assert settle(records) == (records, [])
    assert settle(records, "refuse") == (records, [])


def test_the_last_one_wins():
    kept, overruled = settle([FIRST, OTHER, AGAIN, LATER])
    assert kept == [OTHER, LATER]
    assert overruled == [(FIRST, LATER), (AGAIN, LATER)]
    kept, overruled = settle([LATER, OTHER, FIRST])
    assert kept == [OTHER, FIRST]
    assert overruled == [(LATER, FIRST)]


def test_conflicts_are_counted_and_named():
    _, overruled = settle([FIRST, LATER])
    assert describe(overruled) == (
        "1 request contradicts a later one of the same step: "
        "'first' (Lagos is a city in Sweden) and 'later' (... Japan)"
    )
    assert describe(overruled * 5).startswith("5 requests contradict")
    assert describe(overruled * 5).endswith("; and 2 more")


def test_conflicts_can_be_refused():
    with pytest.raises(ValueError, match=r"conflicts=refuse: 1 request contradicts .* 'first'"):
        settle([FIRST, LATER], "refuse")
    with pytest.raises(ValueError, match="conflicts is 'first', expected one of last, refuse"):
        settle([FIRST], "first")


def both(name, *records):
    return Record(name, tuple(record.requests[0] for record in records))


def test_a_record_of_several_requests_is_overruled_if_one_of_them_is():
    pair = both("pair", OTHER, FIRST)
    kept, overruled = settle([pair, CITIZENS, LATER])
    assert (kept, overruled) == ([CITIZENS, LATER], [(pair, LATER)])
    assert "'pair' (Lagos is a city in Sweden) and 'later' (... Japan)" in describe(overruled)
    kept, overruled = settle([LATER, CITIZENS, pair])
    assert (kept, overruled) == ([CITIZENS, pair], [(LATER, pair)])


def test_a_record_that_is_not_made_overrules_none():
    tokyo = record("tokyo", "Tokyo is a city in", "Tokyo", "Chile")
    pair = both("pair", OTHER, FIRST)
    assert settle([tokyo, pair, LATER]) == ([tokyo, LATER], [(pair, LATER)])


def test_requests_of_one_record_are_its_own_affair():
    twice = both("twice", FIRST, LATER)
    assert settle([twice]) == ([twice], [])
    assert settle([AGAIN, twice], "last") == ([twice], [(AGAIN, twice)])
