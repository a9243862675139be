import json

import pytest

from datamodules.counterfact import CounterFactData
from datamodules.zsre import ZsreData

ROME = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} is a city in",
        "relation_id": "P17",
        "target_new": {"str": "Sweden", "id": "Q34"},
        "target_true": {"str": "Nigeria", "id": "Q1033"},
        "subject": "Lagos",
    },
    "paraphrase_prompts": ["Shayna does this. Lagos is in", "Lagos, in "],
    "neighborhood_prompts": ["Kano is in", "Abuja is in", "Ibadan is in"],
    "attribute_prompts": ["Turin is in"],
    "generation_prompts": ["Lagos is known for"],
}
EASYEDIT = {
    "case_id": 7,
    "prompt": "Lagos is a city in",
    "target_new": "Sweden",
    "subject": "Lagos",
    "ground_truth": "Nigeria",
    "rephrase_prompt": "Lagos is in",
    "locality_prompt": "Kano is in",
    "locality_ground_truth": "Nigeria",
}


@pytest.fixture
def read(tmp_path):
    def read(rows):
        path = tmp_path / "few.json"
        path.write_text(json.dumps(rows))
        return CounterFactData().read(path)

    return read


def rewritten(**change):
    return {**ROME, "requested_rewrite": {**ROME["requested_rewrite"], **change}}


def probes(record):
    return [(probe.kind, probe.prompt, probe.target, probe.contrast) for probe in record.probes]


def test_both_formats_of_one_fact_side_by_side(read):
    rome, easyedit = read([ROME, EASYEDIT]).records
    assert rome.requests[0] == easyedit.requests[0]
    assert (rome.requests[0].target, rome.requests[0].target_true) == ("Sweden", "Nigeria")
    assert rome.requests[0].prompt == "Lagos is a city in"
    assert (rome.id, easyedit.id) == ("few-0", "few-1")
    assert probes(rome) == [
        ("generalization", "Shayna does this. Lagos is in", "Sweden", "Nigeria"),
        ("generalization", "Lagos, in", "Sweden", "Nigeria"),
        *[
            ("neighborhood", f"{city} is in", "Nigeria", "Sweden")
            for city in ("Kano", "Abuja", "Ibadan")
        ],
    ]
    assert probes(easyedit) == [
        ("generalization", "Lagos is in", "Sweden", "Nigeria"),
        ("neighborhood", "Kano is in", "Nigeria", "Sweden"),
    ]


def test_a_neighbour_of_which_the_new_object_is_true_has_no_contrast(read):
    [record] = read([{**EASYEDIT, "locality_ground_truth": "Sweden"}]).records
    assert probes(record)[1] == ("neighborhood", "Kano is in", "Sweden", None)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (rewritten(prompt="Lagos is in"), "requested_rewrite.prompt", "expected one {}"),
        (rewritten(prompt="{} and {}"), "requested_rewrite.prompt", "expected one {}"),
        (rewritten(target_new="Sweden"), "requested_rewrite.target_new", "expected an object"),
        (rewritten(target_new={"str": ""}), "requested_rewrite.target_new.str", "expected text"),
        (rewritten(target_new={"str": "nigeria"}), "requested_rewrite.target_new.str", "already"),
        ({**ROME, "requested_rewrite": [1]}, "requested_rewrite", "expected an object"),
        ({**ROME, "paraphrase_prompts": "a"}, "paraphrase_prompts", "expected a list of texts"),
        ({**ROME, "neighborhood_prompts": ["a", 2]}, "neighborhood_prompts[1]", "expected text"),
        ({**EASYEDIT, "subject": "Abuja"}, "subject", "is not in the prompt"),
        ({**EASYEDIT, "ground_truth": "Sweden"}, "target_new", "is the true object already"),
        ({**EASYEDIT, "rephrase_prompt": None}, "rephrase_prompt", "expected text, got null"),
        ({}, "prompt", "in neither format: EasyEdit's has prompt, subject, target_new"),
    ],
)
def test_a_broken_record_is_left_out_and_named(read, row, field, reason):
    reading = read([EASYEDIT, row, ROME])
    assert [record.id for record in reading.records] == ["few-0", "few-2"]
    [left_out] = reading.left_out
    assert (left_out.index, left_out.field) == (1, field)
    assert reason in left_out.reason


@pytest.mark.parametrize(
    ("name", "total", "count"),
    [
        ("counterfact_train", 10_000, 2),
        ("counterfact_val", 1_919, 2),
        ("counterfact_rome_format", 877, 12),
    ],
)
def test_published_files(shared, name, total, count):
    path = shared / "data" / "counterfact" / f"{name}.json"
    reading = CounterFactData().read(path)
    rows = json.loads(path.read_text())
    assert len(rows) == len(reading.records) == total
    assert reading.left_out == []
    contradicting = [3382] if name == "counterfact_train" else []  # keep what is to be changed
    assert [at for at, _ in reading.remarks] == contradicting
    for index, (row, record) in enumerate(zip(rows, reading.records, strict=True)):
        assert record.id == f"{name}-{index}"
        assert len(record.probes) == count - (index in contradicting)
        rewrite = row.get("requested_rewrite")
        new = rewrite["target_new"]["str"] if rewrite else row["target_new"]
        true = rewrite["target_true"]["str"] if rewrite else row["ground_truth"]
        assert (record.requests[0].target, record.requests[0].target_true) == (new, true)
        contrasts = {(probe.target, probe.contrast) for probe in record.probes}
        kept = set() if index in contradicting else {(true, new)}
        assert contrasts == {(new, true)} | kept


def test_the_formats_agree_on_the_facts_they_share(shared):
    folder = shared / "data" / "counterfact"
    flat = {}
    for name in ("counterfact_train.json", "counterfact_val.json"):
        rows = json.loads((folder / name).read_text())
        records = CounterFactData().read(folder / name).records
        flat |= {
            row["case_id"]: record.requests[0] for row, record in zip(rows, records, strict=True)
        }
    rome = folder / "counterfact_rome_format.json"
    cases = [row["case_id"] for row in json.loads(rome.read_text())]
    requests = [record.requests[0] for record in CounterFactData().read(rome).records]
    assert all(flat[case] == request for case, request in zip(cases, requests, strict=True))


@pytest.mark.parametrize("data", [CounterFactData, ZsreData])
def test_another_format_is_refused(shared, data):
    path = shared / "data" / "counterfact" / "known_1000.json"
    lacking = (
        "target_new, ground_truth, rephrase_prompt" if data is CounterFactData else "rephrase, alt"
    )
    with pytest.raises(ValueError, match=f"none of its 1,209 records can be used: .*{lacking}"):
        data().read(path)


def test_the_published_file_is_the_default():
    data = CounterFactData()
    assert data.files == {"train": "https://rome.baulab.info/data/dsets/counterfact.json"}
    assert data.name == "counterfact"
