import json
from copy import deepcopy

import pytest

from datamodules.ripple_edits import RippleEditsData, frame


def query(prompt, *answers, relation="MOTHER", **more):
    texts = [{"value": value, "aliases": aliases} for value, aliases in answers]
    return {
        **{"prompt": prompt, "answers": texts, "query_type": "regular", "subject_id": "Q1"},
        **{"relation": relation, "target_ids": ["Q2"], "phrase": None},
        **more,
    }


CITIZEN = "The name of the country of citizenship of {} is"
MOTHER = "The name of the mother of {} is"
LEO, IRMELIN = "Leonardo DiCaprio", ("Irmelin DiCaprio", ["Irmelin Indenbirken"])
TEST = {
    "test_queries": [query(MOTHER.format(LEO), IRMELIN)],
    "test_condition": "OR",
    "condition_queries": [query(MOTHER.format(LEO), IRMELIN)],
}
RECORD = {
    "example_type": "popular",
    "edit": {
        "prompt": f"{CITIZEN.format(LEO)} United Arab Emirates.",
        "subject_id": "Q38111",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q878",
        "original_fact": {
            "prompt": f"{CITIZEN.format(LEO)} United States of America.",
            **{"subject_id": "Q38111", "relation": "COUNTRY_OF_CITIZENSHIP", "target_id": "Q30"},
        },
    },
    "Relation_Specificity": [TEST],
    "Logical_Generalization": [
        {
            "test_queries": [
                query("Citizens of the Emirates are", (LEO, ["Leo"]), relation="X"),
                query(f"{LEO} may vote in", ("Dubai", []), relation="X"),
            ],
            "test_condition": "AND",
            "condition_queries": [],
        }
    ],
    "Subject_Aliasing": [
        {
            "test_queries": [
                query(CITIZEN.format(name), ("UAE", []), relation="COUNTRY_OF_CITIZENSHIP")
                for name in ("Leo", "Wilhelm DiCaprio Jr")
            ],
            "test_condition": "OR",
            "condition_queries": [],
        }
    ],
    "Compositionality_I": [],
    "Forgetfulness": [{"test_queries": [query("He also is from", relation="Y")]}],
}


def changed(**edit):
    record = deepcopy(RECORD)
    record["edit"] |= edit
    return record


@pytest.fixture
def read(tmp_path):
    def read(rows):
        (tmp_path / "popular.json").write_text(json.dumps(rows))
        return RippleEditsData().read(tmp_path / "popular.json")

    return read


def test_subject_and_targets_come_out_of_the_sentences(read):
    [record] = read([RECORD]).records
    [request] = record.requests
    assert (request.prompt, request.subject) == (CITIZEN.format(LEO), LEO)
    assert (request.target, request.target_true) == (
        "United Arab Emirates",
        "United States of America",
    )


def test_kinds_conditions_and_what_is_one_question(read):
    reading = read([RECORD])
    logical, vote, *aliases, other = reading.records[0].probes
    assert (logical.kind, logical.answers) == ("reversed_relation", (LEO, "Leo"))
    assert vote.kind == "entailed"
    assert {logical.all_of, vote.all_of} == {"Logical_Generalization-0"}
    assert [(p.kind, p.any_of, p.all_of) for p in aliases] == [
        ("subject_alias", "Subject_Aliasing-0", "")
    ] * 2
    assert (other.kind, other.answers) == ("other_relation", (IRMELIN[0], *IRMELIN[1]))
    assert other.known == ((MOTHER.format(LEO), "Irmelin DiCaprio"),)
    assert [remark.field for _, remark in reading.remarks] == [
        "Forgetfulness[0].test_queries[0].answers",
        "reversed_relation",  # a question that does not name the new target
    ]


def test_the_other_spellings_of_the_authors(read):
    row = changed()
    row["Relation_Specifity"] = row.pop("Relation_Specificity")
    row["edit"]["previous_fact"] = row["edit"].pop("original_fact")
    [record], [usual] = read([row]).records, read([RECORD]).records
    assert record.requests == usual.requests
    assert [(p.kind, p.prompt) for p in record.probes] == [(p.kind, p.prompt) for p in usual.probes]


def test_without_an_old_fact_the_wording_alone_tells_the_target(read):
    record = changed(original_fact=None)
    [request] = read([record]).records[0].requests
    assert (request.target, request.target_true) == ("United Arab Emirates", None)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (changed(relation="ANTHEM"), "edit.subject_id", "no two queries of the file ask for"),
        (changed(prompt="Leo is from Syria."), "edit.target_id", "it may begin at no place"),
        (changed(prompt=f"{CITIZEN.format(LEO)}."), "edit.target_id", "has no name"),
        (
            changed(original_fact=None, prompt=f"{CITIZEN.format(LEO)} what is Syria."),
            "edit.target_id",
            "it may begin at several places",
        ),
        (
            changed(prompt=f"{CITIZEN.format(LEO)} United States of America."),
            "edit.prompt",
            "is the true object already",
        ),
        ({**RECORD, "edit": "x"}, "edit", "expected an object"),
        ({**RECORD, "Forgetfulness": {}}, "Forgetfulness", "expected a list of objects"),
        (
            {**RECORD, "Forgetfulness": [{**TEST, "test_condition": "XOR"}]},
            "Forgetfulness[0].test_condition",
            "'XOR' is neither OR nor AND",
        ),
        ({"prompt": "x"}, "edit", "is missing"),
    ],
)
def test_a_record_without_names_is_left_out_and_named(read, row, field, reason):
    reading = read([RECORD, row])
    [left_out] = reading.left_out
    assert (left_out.index, left_out.field) == (1, field)
    assert reason in left_out.reason


def test_a_frame_is_what_all_prompts_share():
    assert frame(["The eye color of A B is", "The eye color of C is"]) == (
        ("The", "eye", "color", "of"),
        ("is",),
    )
    assert frame(["X is followed by", "Y Z is followed by"]) == ((), ("is", "followed", "by"))
    assert frame(["The mother of X is"]) is None
    assert frame(["The mother of X is", "The mother of X y is"]) == (
        ("The", "mother", "of"),
        ("is",),
    )
