import pytest

from datamodules.records import (
    COLOURS,
    GENERATED,
    KINDS,
    LOCALITY,
    PORTABILITY,
    Probe,
    Record,
    RecordError,
    Request,
    fingerprint,
    kinds_of,
    requests_of,
)


@pytest.mark.parametrize(
    ("prompt", "subject", "found"),
    [
        ("Lagos is not Lagos, but Lagos", "Lagos", (24, 29)),  # the last
        ("Iranian people of Iran speak Iranian", "Iran", (18, 22)),  # a word of its own
        ("The Iranian people", "Iran", (4, 8)),  # or else a part of one
        ("In LAGOS, says lagos", "Lagos", (15, 20)),  # or else in another case
        ("Lagos, in LAGOS", "Lagos", (0, 5)),
        ("C++ and C", "C++", (0, 3)),
    ],
)
def test_a_request_finds_its_subject(prompt, subject, found):
    assert Request(prompt, subject, "x").span == found


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (("", "Lagos", "x"), "field 'prompt': expected text"),
        (("Lagos is in", " ", "x"), "field 'subject': expected text"),
        (("Lagos is in", "Lagos", 7), "field 'target': expected text, got 7"),
        (("Lagos is in ", "Lagos", "x"), "field 'prompt': has blanks at an end"),
        (("Lagos is in", "Kano", "x"), "field 'subject': 'Kano' is not in the prompt"),
    ],
)
def test_a_request_that_cannot_be_is_refused(fields, error):
    with pytest.raises(RecordError, match=error):
        Request(*fields)


REQUESTS = (
    Request("Lagos is in", "Lagos", "Sweden", "Nigeria"),
    Request("The capital of Sweden is", "Sweden", "Oslo"),
)


def test_kinds_stand_in_one_order_by_group():
    assert kinds_of("portability") == PORTABILITY
    assert PORTABILITY == ("subject_alias", "reversed_relation", "one_hop", "entailed")
    assert kinds_of("locality") == LOCALITY == tuple(k for k in KINDS if KINDS[k].local)
    forms = ("yes_no", "yes_no_control", "choice", "choice_control")
    assert kinds_of("depth") == ("negated", *forms, "leak")
    groups = ("request", "generalization", "portability", "locality", "depth")
    assert tuple(KINDS) == sum((kinds_of(group) for group in groups), ())
    assert set(groups) == set(COLOURS)
    assert all(KINDS[name].name == name and KINDS[name].heading for name in KINDS)


def test_what_is_to_stay_is_not_generated_by_default():
    assert tuple(k for k in KINDS if KINDS[k].generated) == GENERATED
    assert set(PORTABILITY) < set(GENERATED)
    assert not set(LOCALITY) & set(GENERATED)


def test_a_record_asks_each_of_its_requests_then_its_probes():
    probe = Probe(
        "one_hop", "The capital of the country of Lagos is", "Oslo", aliases=("Kristiania",)
    )
    record = Record("a", REQUESTS, (probe,))
    assert record.questions == (
        Probe("reliability", "Lagos is in", "Sweden", "Nigeria"),
        Probe("reliability", "The capital of Sweden is", "Oslo"),
        probe,
    )
    assert record.subjects == {"lagos", "sweden"}
    assert probe.answers == ("Oslo", "Kristiania")
    assert requests_of([record, Record("b", REQUESTS[:1])]) == [*REQUESTS, REQUESTS[0]]


@pytest.mark.parametrize("requests", [(), REQUESTS[0], list(REQUESTS)])
def test_a_record_has_a_tuple_of_requests(requests):
    with pytest.raises(RecordError, match="'requests': expected a tuple of requests, got"):
        Record("a", requests)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"kind": "locality"}, f"field 'kind': 'locality' is none of {', '.join(KINDS)}"),
        ({"prompt": ""}, "field 'prompt': expected text, got ''"),
        ({"target": None}, "field 'target': expected text, got None"),
        ({"aliases": ("a", " ")}, "field 'aliases': expected text, got ' '"),
        ({"aliases": "Oslo"}, "field 'aliases': expected several texts, got 'Oslo'"),
        ({"known": (("Lagos is in", ""),)}, "field 'known': expected text, got ''"),
        ({"known": (("Lagos is in",),)}, "field 'known': expected pairs of prompt and answer"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(fields, error):
    with pytest.raises(RecordError, match=error):
        Probe(**({"kind": "one_hop", "prompt": "Lagos is in", "target": "Sweden"} | fields))


def test_a_fingerprint_is_of_every_text_in_order():
    one, other = Record("a", REQUESTS[:1]), Record("b", REQUESTS[1:])
    digests = {
        fingerprint(records)
        for records in (
            *([one], [other], [one, other], [other, one], []),
            [Record("a", REQUESTS[:1], (Probe("leak", "x", "y"),))],
            [Record("a", REQUESTS[:1], (Probe("leak", "x", "y", any_of="z"),))],
        )
    }
    assert len(digests) == 7
    assert fingerprint([one, other]) == fingerprint([Record("a", REQUESTS[:1]), other])
