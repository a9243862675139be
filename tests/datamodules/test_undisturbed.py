from datamodules.records import Probe, Record, Request
from datamodules.undisturbed import undisturbed


def record(subject, country, target, *probes, known=True):
    request = Request(f"{subject} is in", subject, target, country if known else None)
    return Record(subject, request, tuple(Probe(kind, *rest) for kind, *rest in probes))


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


def test_requests_of_other_records_count_too():
    lagos = record("Lagos", "Nigeria", "Peru")
    paris = record("Paris", "France", "Japan", ("unrelated", "Lagos is in", "Nigeria"))
    assert undisturbed([paris], [lagos.request])[0].probes == ()
