import csv
from collections import Counter

import pytest

from datamodules.hallucination import HallucinationData

ROW = {
    **{"topic": "places", "subject": "Rocha", "relation": "country", "object": "Uruguay"},
    "question": "What is the country of Rocha?",
    **{"output_my_model": "Brazil", "eval_my_model": "0.0"},
    "paraphrased_question": "Which country is Rocha in?",
    "reversed_relation_question": "What is a city in Uruguay?",
    **{"question_2hop": "What is the capital of Rocha's country?", "answer_2hop": "Montevideo"},
    **{"question_6hop": "How long is its river?", "answer_6hop": "230 km"},
    "locality_question": "How old is Rocha?",
    "yes_question": "Is the country of Rocha Uruguay?",
    "no_question": "Is the country of Rocha Brazil?",
    "multiple_choice_with_letters": "A. Peru  B. Brazil  C. Uruguay  D. St. Lucia",
    "multiple_choice_labels": "C",
}


@pytest.fixture
def read(tmp_path):
    def read(*rows):
        with (tmp_path / "few.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ROW)
            writer.writeheader()
            writer.writerows(rows)
        return HallucinationData().read(tmp_path / "few.csv")

    return read


def test_the_request_teaches_the_truth(read):
    [request] = read(ROW).records[0].requests
    assert (request.prompt, request.subject) == (ROW["question"], "Rocha")
    assert (request.target, request.target_true) == ("Uruguay", None)


def test_every_question_is_a_probe(read):
    record = read(ROW).records[0]
    assert [(p.kind, p.target, p.contrast, p.hops) for p in record.probes] == [
        ("generalization", "Uruguay", None, 0),
        ("reversed_relation", "Rocha", None, 0),
        ("other_relation", "Uruguay", None, 0),
        ("one_hop", "Montevideo", None, 2),
        ("one_hop", "230 km", None, 6),
        ("yes_no", "yes", "no", 0),
        ("yes_no", "no", "yes", 0),
        ("choice", "Uruguay", "Brazil", 0),
    ]
    *_, yes, no, choice = record.probes
    assert yes.all_of == no.all_of != ""
    assert choice.distractors == ("Peru", "St. Lucia")
    assert choice.prompt == (
        "What is the country of Rocha? Options: Peru, Brazil, Uruguay, St. Lucia. Answer:"
    )


def test_a_locality_question_about_something_else_is_unrelated(read):
    record = read({**ROW, "locality_question": "What is the capital of Peru?"}).records[0]
    assert [probe.kind for probe in record.probes][2] == "unrelated"


def test_empty_cells_are_questions_that_are_not_asked(read):
    few = {**ROW, "no_question": "", "question_6hop": "", "multiple_choice_with_letters": " "}
    kinds = Counter(probe.kind for probe in read(few).records[0].probes)
    assert kinds["one_hop"] == 1 and not kinds["yes_no"] and not kinds["choice"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"object": ""}, "object"),
        ({"subject": "Lima"}, "subject"),
        ({"answer_2hop": ""}, "answer_2hop"),
        ({"multiple_choice_labels": "E"}, "multiple_choice_labels"),
        ({"multiple_choice_with_letters": "no options"}, "multiple_choice_labels"),
    ],
)
def test_a_broken_row_is_left_out_and_named(read, change, field):
    assert [left.field for left in read(ROW, {**ROW, **change}).left_out] == [field]


@pytest.mark.parametrize(
    ("name", "records", "named"),
    [
        ("gpt_j_6b_business_brand", 55, 35),
        ("gpt_j_6b_places_city", 53, 69),
        ("meta_llama_3_8b_instruct_business_brand", 54, 50),
        ("meta_llama_3_8b_instruct_places_city", 48, 42),
    ],
)
def test_published_files(shared, name, records, named):
    reading = HallucinationData().read(shared / "data" / "hallucination" / f"{name}.csv")
    assert (len(reading.records), reading.left_out) == (records, [])
    kinds = Counter(probe.kind for record in reading.records for probe in record.probes)
    assert kinds["one_hop"] == 5 * records - named
    assert kinds["yes_no"] == 2 * kinds["choice"] == 2 * records
    assert all(len(p.distractors) == 2 for r in reading.records for p in r.of_kind("choice"))


def test_there_is_no_default_file():
    with pytest.raises(ValueError, match=r"no file test=\.\.\. was given"):
        HallucinationData().records("test")
