import pytest

from datamodules.fields import Trace
from datamodules.records import Probe, Record, Request
from datamodules.traps import CHANGED, LACKING, LAST, NAMED, checked, names

REQUEST = Request("The language of Mariana is", "Mariana", "Tamil", "Spanish")
ONE_HOP = Probe("one_hop", "Where is the language of Mariana, Tamil, official?", "Tamil Nadu")


def reasons(*probes, **options):
    """The kinds that remain, and the remarks."""
    trace = Trace()
    record = checked(Record("a", (REQUEST,), probes), trace, **options)
    return [probe.kind for probe in record.probes], [remark.reason for remark in trace.remarks]


def test_a_question_that_names_the_new_target_is_left_out_unless_it_is_wanted():
    fine = Probe("one_hop", "Where is the language of Mariana official?", "Tamil Nadu")
    assert reasons(ONE_HOP, fine) == (["one_hop"], [f"{NAMED}: left out"])
    assert reasons(ONE_HOP, fine, drop_named_target=False) == (["one_hop"] * 2, [NAMED])


def test_what_is_only_remarked():
    last = Probe("one_hop", "The language of the author's work is", "tamil")
    lacking = Probe("reversed_relation", "What is written in it?", "Mariana")
    naming = Probe("reversed_relation", "What is written in Tamil?", "Mariana")
    assert reasons(last, lacking, naming) == (
        ["one_hop", "reversed_relation", "reversed_relation"],
        [LAST, LACKING],
    )


def test_what_a_request_changes_cannot_be_kept():
    same = Probe("neighborhood", "the  language of mariana is", "Spanish")
    assert reasons(same) == ([], [f"{CHANGED}: left out"])


def test_a_record_without_a_trap_is_itself():
    record = Record("a", (REQUEST,), (Probe("unrelated", "x", "y"),))
    assert checked(record, Trace()) is record


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Who is a famous violinist?", "violin", True),
        ("a city of a Dutch-speaking country", "Dutch", True),
        ("Is it in St. John's?", "St Johns", True),
        ("Who won in 2006?", "2006", True),
        ("Who won in 20061?", "2006", False),
        ("Is it in use?", "US", False),
        ("Is it in the US?", "US", True),
        ("Is party politics fun?", "art", False),
        ("Where?", "?", False),
    ],
)
def test_when_a_question_names_an_answer(question, answer, expected):
    assert names(question, answer) is expected
