import json

import pytest

from datamodules.mquake import MquakeData


def rewrite(prompt, subject, new, true, question):
    return {
        **{"prompt": prompt, "subject": subject, "relation_id": "P1", "question": question},
        **{"target_new": {"str": new, "id": "Q1"}, "target_true": {"str": true, "id": "Q2"}},
    }


def hop(question, cloze, answer, *aliases):
    return {"question": question, "cloze": cloze, "answer": answer, "answer_alias": list(aliases)}


SINGER = rewrite("{} was sung by", "Hey Jude", "Madonna", "The Beatles", "Who sang Hey Jude?")
BORN = rewrite("{} was born in", "Madonna", "Japan", "America", "Where was Madonna born?")
HOPS = [
    hop("Who sang Hey Jude?", "Hey Jude was sung by", "Madonna", "M. Ciccone"),
    hop("Where was Madonna born?", "Madonna was born in", "Japan", "Nippon"),
    hop("What do they speak in Japan?", "In Japan they speak", "Japanese"),
]
ROW = {
    **{"case_id": 1, "requested_rewrite": [SINGER, BORN], "new_single_hops": HOPS},
    "questions": ["What do they speak where Hey Jude's singer was born?", "Its tongue?", "Third?"],
    **{"answer": "English", "new_answer": "Japanese", "new_answer_alias": ["ja"]},
    "single_hops": [],
}


@pytest.fixture
def read(tmp_path):
    def read(*rows, **options):
        (tmp_path / "few.json").write_text(json.dumps(rows))
        return MquakeData(**options).read(tmp_path / "few.json")

    return read


def test_all_rewrites_are_one_record(read):
    [record] = read(ROW).records
    assert [(r.prompt, r.subject, r.target, r.target_true) for r in record.requests] == [
        ("Hey Jude was sung by", "Hey Jude", "Madonna", "The Beatles"),
        ("Madonna was born in", "Madonna", "Japan", "America"),
    ]
    assert record.subjects == {"hey jude", "madonna"}


def test_single_hops_and_one_question_in_three_wordings(read):
    singer, born, *wordings = read(ROW).records[0].probes
    assert (singer.kind, singer.prompt) == ("generalization", "Who sang Hey Jude?")
    assert (singer.answers, singer.contrast) == (("Madonna", "M. Ciccone"), "The Beatles")
    assert born.answers == ("Japan", "Nippon")
    assert [probe.prompt for probe in wordings] == ROW["questions"]
    assert {probe.answers for probe in wordings} == {("Japanese", "ja")}
    assert {(p.kind, p.any_of, p.contrast, p.hops, p.known) for p in wordings} == {
        ("one_hop", "hops", "English", 3, ())
    }


def test_known_hops_are_those_that_no_request_changes(read):
    *_, wording = read(ROW, known_hops=True).records[0].probes
    assert wording.known == (("In Japan they speak", "Japanese"),)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"requested_rewrite": []}, "requested_rewrite", "expected rewrites, got none"),
        ({"requested_rewrite": SINGER}, "requested_rewrite", "expected a list of objects"),
        (
            {"requested_rewrite": [SINGER, {**BORN, "prompt": "x"}]},
            "requested_rewrite[1].prompt",
            "expected one {}",
        ),
        (
            {"requested_rewrite": [{**SINGER, "target_new": {"str": "the beatles"}}]},
            "requested_rewrite[0].target_new.str",
            "is the true object already",
        ),
        ({"questions": "x"}, "questions", "expected a list of texts"),
        ({"new_answer": None}, "new_answer", "expected text, got null"),
        ({"new_single_hops": [{}]}, "new_single_hops[0].answer", "is missing"),
    ],
)
def test_a_broken_case_is_left_out_and_named(read, change, field, reason):
    [left_out] = read(ROW, {**ROW, **change}).left_out
    assert (left_out.index, left_out.field) == (1, field)
    assert reason in left_out.reason


def test_a_file_of_counterfact_is_named(shared):
    with pytest.raises(ValueError, match="its fields are those of data=counterfact"):
        MquakeData().read(shared / "data" / "counterfact" / "counterfact_rome_format.json")


def test_published_file(shared):
    reading = MquakeData().read(shared / "data" / "multi_hop" / "mquake_hard.json")
    assert (len(reading.records), reading.left_out) == (429, [])
    assert {len(record.requests) for record in reading.records} == {4}
    wordings = [len(record.of_kind("one_hop")) for record in reading.records]
    assert sum(wordings) == 3 * 429 - 3  # three name a new target
    assert all(p.hops == 4 for record in reading.records for p in record.of_kind("one_hop"))
