from datamodules.disturbance import changes, disturbed, undisturbed
from datamodules.records import Probe, Record, Request


def record(subject, country, target, *probes, known=True):
    request = Request(f"{subject} is in", subject, target, country if known else None)
    return Record(subject, (request,), tuple(Probe(kind, *rest) for kind, *rest in probes))


def test_probes_that_another_request_changes_are_not_asked():
    lagos = record("Lagos", "Nigeria", "Peru", ("generalization", "Paris and Lagos are in", "Peru"))
    paris = record(
        "Paris", "France", "Japan",
        ("unrelated", "Lagos is in", "Nigeria"), ("unrelated", "People in Lagos speak", "English"),
        ("neighborhood", "Lyon is in", "France"), ("neighborhood", "Paris is in", "France"),
    )  # fmt: skip
    kept = undisturbed([lagos, paris])
    assert kept[0] == lagos
    assert [p.prompt for p in kept[1].probes] == [
        "People in Lagos speak",
        "Lyon is in",
        "Paris is in",
    ]
    assert undisturbed([paris]) == [paris]
    unknown = record("Lagos", "Nigeria", "Peru", known=False)
    assert [p.prompt for p in undisturbed([unknown, paris])[1].probes] == [
        "Lyon is in",
        "Paris is in",
    ]


def test_only_locality_probes_of_other_records_are_disturbed():
    lagos = record("Lagos", "Nigeria", "Peru", ("neighborhood", "Lagos is in", "Nigeria"))
    paris = record("Paris", "France", "Japan")
    kept, asked = (
        Probe("unrelated", "Lagos is in", "Nigeria"),
        Probe("one_hop", "Lagos is in", "Peru"),
    )
    changed = changes([lagos.requests[0]])
    assert disturbed(kept, paris, changed)
    assert not disturbed(asked, paris, changed)
    assert not disturbed(lagos.probes[0], lagos, changed)
    assert not disturbed(kept, paris, changes([]))


def test_none_of_the_requests_of_a_record_disturbs_its_own_probes():
    cities = ("Lagos", "Kano", "Abuja")
    lagos, kano, abuja = (Request(f"{city} is in", city, "Peru", "Nigeria") for city in cities)
    probes = tuple(Probe("neighborhood", f"{city} is in", "Nigeria") for city in cities)
    both, other = Record("both", (lagos, kano), probes), Record("other", (abuja,), probes)
    assert undisturbed([both]) == [both]
    assert [record.probes for record in undisturbed([both, other])] == [probes[:2], probes[2:]]
