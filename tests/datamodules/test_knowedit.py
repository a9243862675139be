import json
from collections import Counter

import pytest

from datamodules.knowedit import KnowEditData
from datamodules.traps import LAST, NAMED

ALIASES = [["France", "FR"], ["Gaul"]]
ROW = {
    **{"subject": "Goursez", "prompt": "The country of Goursez is", "target_new": "Spain"},
    "ground_truth": ["France"],
    "rephrase_prompt": "Goursez is in",
    "portability": {
        "Reasoning": [{"prompt": "The capital of Goursez's country is", "ground_truth": "Madrid"}],
        "Subject_Aliasing": [{"prompt": "The country of Gorsedd is", "ground_truth": "spain"}],
        "Logical_Generalization": [
            {"prompt": "Spain is the country of", "ground_truth": "goursez"},
            {"prompt": "Goursez is on", "ground_truth": [["Iberia", "the peninsula"]]},
        ],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Goursez was founded by", "ground_truth": ["Fustec"]}],
        "Forgetfulness": [{"prompt": "Another country of Goursez is", "ground_truth": ALIASES}],
    },
}
BIOGRAPHY = {
    **{"text": "A passage about john smith. He was born.", "concept": "john smith"},
    **{"labels": "He taught.", "locality": ROW["locality"]},
}


def changed(group, **criteria):
    return {**ROW, group: {**ROW[group], **criteria}}


@pytest.fixture
def read(tmp_path):
    def read(*rows, **options):
        (tmp_path / "few.json").write_text(json.dumps(rows))
        return KnowEditData(**options).read(tmp_path / "few.json")

    return read


def test_kinds_go_by_content(read):
    [record] = read(ROW).records
    [request] = record.requests
    assert (request.prompt, request.subject) == (ROW["prompt"], "Goursez")
    assert (request.target, request.target_true) == ("Spain", "France")
    assert [(p.kind, p.answers, p.contrast) for p in record.probes] == [
        ("generalization", ("Spain",), "France"),
        ("one_hop", ("Madrid",), None),
        ("subject_alias", ("spain",), "France"),
        ("reversed_relation", ("goursez",), None),
        ("entailed", ("Iberia", "the peninsula"), None),
        ("other_relation", ("Fustec",), None),
        ("kept_objects", ("France", "FR", "Gaul"), None),
    ]


@pytest.mark.parametrize(
    ("truth", "true"),
    [
        ("France", "France"),
        (ALIASES, "France"),
        (" ", None),
        ([], None),
        (["Italy", "spain"], None),
    ],
)
def test_what_was_true(read, truth, true):
    [record] = read({**ROW, "ground_truth": truth}).records
    assert record.requests[0].target_true == true


def test_a_biography_goes_on_with_its_target(read):
    [record] = read(BIOGRAPHY).records
    [request] = record.requests
    assert (request.prompt, request.target) == (BIOGRAPHY["text"], "He taught.")
    assert request.subject == "john smith"
    assert [probe.kind for probe in record.probes] == ["other_relation", "kept_objects"]


def test_a_record_without_consequences(read):
    assert read({**ROW, "portability": {}, "locality": {}}).records[0].probes[1:] == ()
    bare = {name: ROW[name] for name in ("subject", "prompt", "target_new")}
    assert read(bare).records[0].probes == ()


def test_a_probe_without_an_answer_is_left_out_alone(read):
    for answer in ("", [], [[]], None, 5):
        row = changed("locality", Forgetfulness=[{"prompt": "x", "ground_truth": answer}])
        reading = read(row)
        assert [len(record.probes) for record in reading.records] == [6]
        [(at, remark)] = reading.remarks
        assert (at, remark.reason[:31]) == (0, "left out of locality.Forgetfuln")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({**ROW, "subject": "Gorsedd"}, "subject", "is not in the prompt"),
        ({**ROW, "target_new": 7}, "target_new", "expected text, got 7"),
        ({**ROW, "portability": [1]}, "portability", "expected an object"),
        (changed("portability", Reasoning="x"), "portability.Reasoning", "expected a list"),
        (changed("portability", Thinking=[1]), "portability.Thinking", "expected one of Reason"),
        ({k: v for k, v in ROW.items() if k != "target_new"}, "target_new", "is missing"),
        ({**BIOGRAPHY, "concept": "jane"}, "subject", "is not in the prompt"),
    ],
)
def test_a_broken_record_is_left_out_and_named(read, row, field, reason):
    [left_out] = read(ROW, row).left_out
    assert (left_out.index, left_out.field) == (1, field)
    assert reason in left_out.reason


def test_its_parts_without_targets_are_refused_by_name(read):
    with pytest.raises(ValueError, match="its fields are those of KnowEdit's ConvSent"):
        read({"ent": "x", "pos": ["good"], "neg": ["bad"]})


COUNTS = {
    "wiki_counterfact_train": (
        (1428, 0),
        {"one_hop": 504, "reversed_relation": 182, "entailed": 123, "subject_alias": 1410},
        {LAST: 205},
    ),
    "wiki_recent_train": (
        (570, 0),
        {"one_hop": 453, "reversed_relation": 3, "entailed": 220, "subject_alias": 52},
        {f"{NAMED}: left out": 23},
    ),
    "zsre_test": (
        (640, 3),
        {"one_hop": 285, "reversed_relation": 134, "subject_alias": 124, "generalization": 640},
        {f"{NAMED}: left out": 97},
    ),
    "wikibio_test": ((168, 0), {"other_relation": 336}, {}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_files(shared, name):
    reading = KnowEditData().read(shared / "data" / "knowedit" / f"{name}.json")
    sizes, kinds, remarks = COUNTS[name]
    assert (len(reading.records), len(reading.left_out)) == sizes
    found = Counter(probe.kind for record in reading.records for probe in record.probes)
    assert {kind: found[kind] for kind in kinds} == kinds
    assert {reason: reading.counts()[reason] for reason in remarks} == remarks
