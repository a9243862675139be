import json

import pandas as pd
import pytest

from datamodules.requests import RequestsData

ROW = {
    **{"prompt": "The capital of France is", "subject": "France", "target_new": "Lyon"},
    "ground_truth": "Paris",
}
BARE = {name: ROW[name] for name in ("prompt", "subject", "target_new")}


@pytest.fixture
def read(tmp_path):
    def read(*rows, **options):
        (tmp_path / "my.json").write_text(json.dumps(rows))
        return RequestsData(**options).read(tmp_path / "my.json")

    return read


def probes(reading):
    [record] = reading.records
    return [(probe.kind, probe.prompt, probe.answers, probe.contrast) for probe in record.probes]


def test_three_columns_are_enough(read):
    [record] = read(BARE).records
    [request] = record.requests
    assert (request.prompt, request.subject, request.target) == tuple(BARE.values())
    assert (request.target_true, record.probes) == (None, ())


def test_whatever_else_is_there(read):
    row = {
        **{**ROW, "target_new": ["Lyon", "Lugdunum"]},
        "rephrase_prompt": ["France's capital:", "In France, one governs from"],
        **{"locality_prompt": "The Louvre is in", "locality_ground_truth": "paris"},
        "portability_prompt": "The mayor of France's capital is",
        "portability_ground_truth": [["Doucet", "G. Doucet"]],
    }
    assert probes(read(row)) == [
        ("generalization", "France's capital:", ("Lyon", "Lugdunum"), "Paris"),
        ("generalization", "In France, one governs from", ("Lyon", "Lugdunum"), "Paris"),
        ("one_hop", "The mayor of France's capital is", ("Doucet", "G. Doucet"), None),
        ("neighborhood", "The Louvre is in", ("paris",), "Lyon"),
    ]
    far = {**BARE, "locality_prompt": "Who wrote Faust?", "locality_ground_truth": "Goethe"}
    assert probes(read(far)) == [("unrelated", "Who wrote Faust?", ("Goethe",), None)]


@pytest.mark.parametrize(
    "questions",
    [
        {"prompt": "The Louvre is in", "ground_truth": "Paris"},
        [{"prompt": "The Louvre is in", "ground_truth": ["Paris"]}],
        {"prompt": ["The Louvre is in"], "ground_truth": [["Paris"]]},
    ],
)
@pytest.mark.parametrize("group", ["locality", "locality_inputs"])
def test_named_questions_in_each_shape(read, questions, group):
    assert probes(read({**ROW, group: {"neighborhood": questions}})) == [
        ("neighborhood", "The Louvre is in", ("Paris",), "Lyon")
    ]


def test_names_of_kinds_that_others_use(read):
    question = {"prompt": "x", "ground_truth": "y"}
    named = {"Reasoning": question, "subject_replace": question, "entailed": question}
    row = {**ROW, "portability": named, "locality": {"distracting": question, "Forgetfulness": []}}
    kinds = [kind for kind, *_ in probes(read(row))]
    assert kinds == ["one_hop", "subject_alias", "entailed", "distracting_neighbor"]


def test_a_missing_subject_is_guessed_only_where_it_is_sure_and_said(read):
    sure = {"prompt": "Marie Curie was born in", "target_new": "Kyiv", "subject": None}
    unsure = {"prompt": "Lagos is in", "target_new": "Sweden"}
    reading = read(sure, unsure)
    assert [record.requests[0].subject for record in reading.records] == ["Marie Curie"]
    [(at, remark)] = reading.remarks
    assert (at, remark.reason, remark.value) == (
        *(0, "missing, guessed from the prompt"),
        "'Marie Curie'",
    )
    [left_out] = reading.left_out
    assert str(left_out) == (
        "my.json[1].subject: is missing, and 'Lagos is in' does not tell it for sure"
    )


def test_columns_of_another_name(read):
    row = {"question": ROW["prompt"], "about": "France", "target_new": "Lyon", "prompt": 5}
    reading = read(row, columns={"prompt": "question", "subject": "about"})
    assert reading.records[0].requests == read(BARE).records[0].requests
    assert reading.unread == ()
    with pytest.raises(ValueError, match=r"\[0\].q: is missing; the record has question, about"):
        read({k: v for k, v in row.items() if k != "prompt"}, columns={"prompt": "q"})
    with pytest.raises(ValueError, match="columns: one column of the file for two of"):
        RequestsData(columns={"prompt": "a", "subject": "a"})


def test_all_file_formats_give_the_same_records(read, tmp_path):
    rows = [ROW, {**ROW, "target_new": "2006", "ground_truth": "None"}]
    records = read(*rows).records
    pd.DataFrame(rows).to_parquet(tmp_path / "my.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "my.csv", index=False)
    pd.DataFrame(rows).to_json(tmp_path / "my.jsonl", orient="records", lines=True)
    for name in ("my.parquet", "my.csv", "my.jsonl"):
        assert RequestsData().read(tmp_path / name).records == records


def test_the_truth_as_target_is_set_against_nothing(read):
    reading = read({**ROW, "target_new": "PARIS"})
    assert reading.records[0].requests[0].target_true is None
    assert reading.counts() == {"new target is true already: nothing is set against it": 1}


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({**ROW, "target_new": 5}, "target_new", "expected text, got 5"),
        ({**ROW, "target_new": "\u200b"}, "target_new", "shows nothing"),
        ({**ROW, "prompt": "x" * 10**6}, "prompt", "has 1,000,000 characters"),
        ({**ROW, "subject": "Italy"}, "subject", "is not in the prompt"),
        ({**ROW, "locality_prompt": "x"}, "locality_ground_truth", "is missing"),
        ({**ROW, "locality": {"foo": {"a": 1}}}, "locality.foo", "is no kind of question"),
        ({**ROW, "locality": {"yes_no": {"a": 1}}}, "locality.yes_no", "is no kind of question"),
        ({**ROW, "locality": "x"}, "locality", "expected an object"),
        (
            {**ROW, "locality": {"unrelated": {"prompt": ["a", "b"], "ground_truth": ["c"]}}},
            "locality.unrelated",
            "expected as many of each, got 2 prompt, 1 ground_truth",
        ),
        (
            {**ROW, "locality": {"unrelated": {"prompt": "a"}}},
            "locality.unrelated.ground_truth",
            "",
        ),
        (
            {**ROW, "locality": {"unrelated": 5}},
            "locality.unrelated",
            "expected a list of objects",
        ),
    ],
)
def test_a_broken_request_is_left_out_and_named(read, row, field, reason):
    [left_out] = read(ROW, row).left_out
    assert (left_out.index, left_out.field) == (1, field)
    assert reason in left_out.reason


def test_a_question_that_the_request_changes_is_no_locality(read):
    row = {**ROW, "locality_prompt": ROW["prompt"], "locality_ground_truth": "Paris"}
    reading = read(row)
    assert probes(reading) == []
    assert reading.counts() == {"locality question is that of the request: left out": 1}


@pytest.mark.parametrize(
    ("folder", "file", "format"),
    [
        ("zsre", "zsre_eval.json", "data=zsre"),
        ("counterfact", "counterfact_rome_format.json", "data=counterfact"),
        ("multi_hop", "mquake_hard.json", "data=mquake"),
        ("free_generation", "qaedit_1k.json", "data=qaedit"),
        ("hallucination", "gpt_j_6b_places_city.csv", "data=hallucination"),
        ("knowedit", "wikibio_test.json", "data=knowedit"),
        ("tasks", "piqa_valid.jsonl", "other_task=piqa"),
    ],
)
def test_a_published_file_is_recognised(shared, folder, file, format):
    with pytest.raises(ValueError, match=f"none of its .*; its fields are those of {format}"):
        RequestsData().read(shared / "data" / folder / file)


def test_easyedits_form_of_counterfact_is_read_alike(shared):
    from datamodules.counterfact import CounterFactData

    path = shared / "data" / "counterfact" / "counterfact_val.json"
    assert RequestsData().read(path).records == CounterFactData().read(path).records
