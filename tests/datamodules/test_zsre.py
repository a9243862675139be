import json

import pytest

from datamodules.zsre import ZsreData

FULL = {
    "subject": "Lagos",
    "src": "Which country is Lagos in?",
    "pred": "Ghana",
    "rephrase": "Lagos is in which country?",
    "alt": " Sweden ",
    "answers": ["Nigeria", "the Federal Republic of Nigeria"],
    "loc": "nq question: who wrote hamlet",
    "loc_ans": "Shakespeare",
    "cond": "Ghana >> Sweden || Which country is Lagos in?",
}


def reduced(subject, country, question="Which country is {} in?"):
    source = question.format(subject)
    return {
        **{"subject": subject, "src": source, "rephrase": source, "alt": country},
        **{"loc": "nq question: x", "loc_ans": "y"},
    }


@pytest.fixture
def read(tmp_path):
    def read(rows, **options):
        path = tmp_path / "zsre_few.json"
        path.write_text(json.dumps(rows))
        return ZsreData(**options).read(path)

    return read


def test_a_full_record(read):
    [record] = read([FULL]).records
    assert record.id == "zsre_few-0"
    request = record.requests[0]
    assert (request.prompt, request.subject) == (FULL["src"], "Lagos")
    assert (request.target, request.target_true) == ("Sweden", "Nigeria")
    assert [(p.kind, p.prompt, p.target, p.contrast) for p in record.probes] == [
        ("generalization", FULL["rephrase"], "Sweden", "Nigeria"),
        ("unrelated", FULL["loc"], "Shakespeare", None),
    ]


@pytest.mark.parametrize("alt", ["Nigeria", "nigeria", "The Federal Republic of Nigeria"])
def test_a_target_that_is_true_has_nothing_to_be_set_against(read, alt):
    [record] = read([{**FULL, "alt": alt}]).records
    assert (record.requests[0].target, record.requests[0].target_true) == (alt, None)
    assert record.probes[0].contrast is None


def test_no_answers_no_truth(read):
    [record] = read([{**FULL, "answers": []}]).records
    assert (record.requests[0].target, record.requests[0].target_true) == ("Sweden", None)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"alt": " "}, "alt", "expected text"),
        ({"answers": "Nigeria"}, "answers", "expected a list of texts"),
        ({"answers": ["Nigeria", 1]}, r"answers[1]", "expected text, got 1"),
        ({"loc_ans": None}, "loc_ans", "expected text, got null"),
        ({"subject": "Abuja"}, "subject", "is not in the prompt"),
        ({"rephrase": ["a", "b"]}, "rephrase", "expected text"),
    ],
)
def test_a_broken_record_is_left_out_and_named(read, change, field, reason):
    reading = read([FULL, {**FULL, **change}])
    assert [record.id for record in reading.records] == ["zsre_few-0"]
    [left_out] = reading.left_out
    assert (left_out.index, left_out.field) == (1, field)
    assert reason in left_out.reason


def test_reduced_records_take_another_answer_to_a_question_in_the_same_words(read):
    rows = [
        reduced("Lagos", "Nigeria"),
        reduced("Turin", "Italy"),
        reduced("Kano", "nigeria"),
        reduced("Verdi", "composer", "What was {}'s occupation?"),
    ]
    for seed in range(5):
        requests = [record.requests[0] for record in read(rows, seed=seed).records]
        assert [request.target_true for request in requests] == [row["alt"] for row in rows]
        assert [request.target for request in requests[:3]] in (
            ["Italy", "Nigeria", "Italy"],
            ["Italy", "nigeria", "Italy"],
        )
        assert requests[3].target in ("Nigeria", "Italy", "nigeria")


def test_new_targets_depend_on_the_seed_only(read):
    rows = [reduced(f"City{i}", f"Country{i}") for i in range(20)]
    once, again, other = (read(rows, seed=seed).records for seed in (0, 0, 1))
    assert once == again != other
    assert all(r.requests[0].target.lower() != r.requests[0].target_true.lower() for r in once)


def test_every_answer_to_the_same_question_counts_as_true(read):
    rows = [reduced("Turkey", land) for land in ("Asia", "Europe")] + [reduced("Kano", "Africa")]
    records = read(rows).records
    assert [record.requests[0].target for record in records[:2]] == ["Africa", "Africa"]


def test_new_targets_alt_keeps_the_truth_as_target(read):
    [record] = read([reduced("Lagos", "Nigeria")], new_targets="alt").records
    assert (record.requests[0].target, record.requests[0].target_true) == ("Nigeria", None)


def test_without_another_answer_a_reduced_record_is_left_out(read):
    reading = read([FULL, reduced("Lagos", "Nigeria"), {**reduced("Kano", "x"), "alt": 1}])
    assert [(one.index, one.field) for one in reading.left_out] == [(1, "alt"), (2, "alt")]
    assert "no record of the file has another answer" in reading.left_out[0].reason


def test_new_targets_is_checked(read):
    with pytest.raises(ValueError, match="new_targets is 'pred'; expected shuffled or alt"):
        read([FULL], new_targets="pred")


@pytest.mark.parametrize(
    ("name", "total", "without_truth"),
    [("zsre_eval", 2520, 100), ("zsre_train_1k", 999, 21), ("zsre_train_10k", 9978, 0)],
)
def test_published_files(shared, name, total, without_truth):
    path = shared / "data" / "zsre" / f"{name}.json"
    rows = json.loads(path.read_text())
    blank = [index for index, row in enumerate(rows) if not row["alt"].strip()]
    assert blank == ([534, 723] if name == "zsre_train_1k" else [])
    reading = ZsreData().read(path)
    assert [(one.index, one.field) for one in reading.left_out] == [(i, "alt") for i in blank]
    assert len(reading.records) == total - len(blank)
    assert len({record.id for record in reading.records}) == total - len(blank)
    missing = 0
    for record in reading.records:
        row, request = rows[int(record.id.rpartition("-")[2])], record.requests[0]
        assert (request.prompt, request.subject) == (row["src"], row["subject"])
        assert [probe.prompt for probe in record.probes] == [row["rephrase"], row["loc"]]
        assert request.target != request.target_true
        if "answers" in row:
            assert request.target == row["alt"].strip()
            assert request.target_true in (row["answers"][0], None)
            true = [answer.lower() for answer in row["answers"]]
            assert (request.target_true is None) == (request.target.lower() in true)
            missing += request.target_true is None
        else:
            assert request.target_true == row["alt"]
            assert request.target.lower() != row["alt"].lower()
    assert missing == without_truth


def test_data_module_passes_new_targets_and_seed_on(read, tmp_path):
    rows = [reduced(f"City{i}", f"Country{i}") for i in range(20)]
    expected = {record.id: record for record in read(rows, seed=3).records}
    path = str(tmp_path / "zsre_few.json")
    data = ZsreData(test=path, seed=3)
    assert {record.id: record for record in data.records("test")} == expected
    assert data.name == "zsre"
    [first, *_] = ZsreData(test=path, new_targets="alt").records("test")
    assert first.requests[0].target_true is None


def test_the_published_files_are_the_default():
    files = ZsreData().files
    assert files["test"] == "https://rome.baulab.info/data/dsets/zsre_mend_eval.json"
    assert files["train"] == "https://rome.baulab.info/data/dsets/zsre_mend_train.json"
