import json

import pytest

from datamodules.qaedit import QaeditData

ROW = {
    **{"id": 3, "source": "NQ", "prompt": "who sang hey jude?", "subject": "hey jude"},
    **{"target": "The Beatles", "rephrase": "Which band sang it?"},
    "locality": [{"loc": "who wrote faust", "loc_ans": "Goethe"}, {"loc": "x", "loc_ans": "y"}],
}


@pytest.fixture
def read(tmp_path):
    def read(*rows):
        (tmp_path / "few.json").write_text(json.dumps(rows))
        return QaeditData().read(tmp_path / "few.json")

    return read


def test_a_question_its_rephrasing_and_what_is_to_stay(read):
    [record] = read(ROW).records
    [request] = record.requests
    assert (request.target, request.target_true) == ("The Beatles", None)
    assert [(probe.kind, probe.prompt, probe.target) for probe in record.probes] == [
        ("generalization", "Which band sang it?", "The Beatles"),
        ("unrelated", "who wrote faust", "Goethe"),
        ("unrelated", "x", "y"),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"target": ""}, "target"),
        ({"subject": "let it be"}, "subject"),
        ({"rephrase": ["x"]}, "rephrase"),
        ({"locality": "x"}, "locality"),
    ],
)
def test_a_broken_record_is_left_out_and_named(read, change, field):
    assert [left.field for left in read(ROW, {**ROW, **change}).left_out] == [field]


def test_a_broken_question_is_left_out_alone(read):
    reading = read({**ROW, "locality": [{"loc": "x"}, {"loc": "x", "loc_ans": "y"}]})
    assert len(reading.records[0].probes) == 2
    assert [remark.field for _, remark in reading.remarks] == ["locality[0].loc_ans"]


def test_published_file(shared):
    reading = QaeditData().read(shared / "data" / "free_generation" / "qaedit_1k.json")
    assert (len(reading.records), reading.left_out) == (518, [])
    assert {len(record.of_kind("unrelated")) for record in reading.records} == {5}
