"""The portability and locality files of Yao et al., as fields of ZsRE and of CounterFact."""

import json
from collections import Counter

import pytest

from datamodules.counterfact import CounterFactData
from datamodules.traps import NAMED
from datamodules.zsre import ZsreData

ZSRE = {
    **{"subject": "Lagos", "src": "Which country is Lagos in?", "pred": "Ghana", "alt": "Sweden"},
    **{"rephrase": "Lagos is in which country?", "answers": ["Nigeria"], "cond": "x"},
}
ROME = {
    "requested_rewrite": {
        **{"prompt": "{} is in", "subject": "Lagos", "target_new": {"str": "Sweden"}},
        "target_true": {"str": "Nigeria"},
    },
    "paraphrase_prompts": ["Lagos, in"],
    "neighborhood_prompts": ["Kano is in"],
}
HOP = {
    "portability": {
        "Recalled Relation": "(Sweden, currency, krona)",
        **{"New Question": "What is the currency of Lagos's country?", "New Answer": "krona"},
    }
}
REPLACE = {"alternative_subject": "Eko", "alter_subject_question": "Which country is Eko in?"}
LOCAL = {
    "unrelated_relation": {"relation_id": "x", "object": "Ambode", "question": "Who runs Lagos?"},
    "distracting_neighborhood_prompts": ["Lagos is in Sweden. Kano is in"],
}


@pytest.fixture
def read(tmp_path):
    def read(data, *rows, **options):
        (tmp_path / "few.json").write_text(json.dumps(rows))
        return data(**options).read(tmp_path / "few.json")

    return read


def added(reading):
    """The probes that a plain record does not have."""
    [record] = reading.records
    plain = ("generalization", "neighborhood", "unrelated")
    return [(p.kind, p.prompt, p.target, p.contrast) for p in record.probes if p.kind not in plain]


@pytest.mark.parametrize(
    ("data", "row", "probes"),
    [
        (
            ZsreData,
            {**ZSRE, **HOP},
            [("one_hop", "What is the currency of Lagos's country?", "krona", None)],
        ),
        (
            ZsreData,
            {**ZSRE, "inverse question": "Which city is in Sweden?"},
            [("reversed_relation", "Which city is in Sweden?", "Lagos", None)],
        ),
        (
            ZsreData,
            {**ZSRE, **REPLACE},
            [("subject_alias", "Which country is Eko in?", "Sweden", "Nigeria")],
        ),
        (
            CounterFactData,
            {**ROME, **HOP},
            [("one_hop", "What is the currency of Lagos's country?", "krona", None)],
        ),
        (
            CounterFactData,
            {**ROME, "alternative_subject": "Eko"},
            [("subject_alias", "Eko is in", "Sweden", "Nigeria")],
        ),
        (
            CounterFactData,
            {**ROME, **LOCAL},
            [
                ("other_relation", "Who runs Lagos?", "Ambode", None),
                ("distracting_neighbor", "Lagos is in Sweden. Kano is in", "Nigeria", "Sweden"),
            ],
        ),
    ],
)
def test_each_field_is_a_probe(read, data, row, probes):
    assert added(read(data, row)) == probes


def test_a_question_that_names_the_new_target_is_left_out_and_counted(read):
    hop = {"New Question": "What is the currency of Sweden?", "New Answer": "krona"}
    for data, plain in ((ZsreData, ZSRE), (CounterFactData, ROME)):
        reading = read(data, {**plain, "portability": hop})
        assert added(reading) == []
        assert reading.counts() == {f"{NAMED}: left out": 1}
        assert f"{NAMED}: left out: 1 x, such as [0].one_hop" in reading.summary()
        [probe] = added(read(data, {**plain, "portability": hop}, drop_named_target=False))
        assert probe[0] == "one_hop"


@pytest.mark.parametrize(
    ("data", "row", "field"),
    [
        (ZsreData, {**ZSRE, "portability": "x"}, "portability"),
        (ZsreData, {**ZSRE, "portability": {"New Question": "x"}}, "portability.New Answer"),
        (ZsreData, {**ZSRE, "inverse question": 5}, "inverse question"),
        (ZsreData, {**ZSRE, "alter_subject_question": "x"}, "alternative_subject"),
        (ZsreData, {**ZSRE, "loc": "x"}, "loc_ans"),
        (CounterFactData, {**ROME, "alternative_subject": ""}, "alternative_subject"),
        (CounterFactData, {**ROME, "unrelated_relation": {}}, "unrelated_relation.question"),
        (
            CounterFactData,
            {**ROME, "distracting_neighborhood_prompts": "x"},
            "distracting_neighborhood_prompts",
        ),
    ],
)
def test_a_broken_field_leaves_the_record_out_and_is_named(read, data, row, field):
    plain = ZSRE if data is ZsreData else ROME
    assert [left.field for left in read(data, plain, row).left_out] == [field]


def test_what_is_not_read_is_said(read):
    assert read(ZsreData, ZSRE).unread == ("pred", "cond")
    assert "fields not used: mine" in read(CounterFactData, {**ROME, "mine": 1}).summary()


COUNTS = {  # left out, one-hop questions that name the new target, probes that a field gave
    "zsre_one_hop": (0, 157, {"one_hop": 343}),
    "zsre_inverse_relation": (4, 0, {"reversed_relation": 181}),
    "zsre_subject_replace": (2, 0, {"subject_alias": 140}),
    "counterfact_one_hop": (0, 127, {"one_hop": 407}),
    "counterfact_subject_replace": (0, 0, {"subject_alias": 114}),
    "counterfact_locality": (
        *(0, 100),
        {"one_hop": 321, "other_relation": 421, "distracting_neighbor": 4210},
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_files(shared, name):
    data = ZsreData if name.startswith("zsre") else CounterFactData
    reading = data().read(shared / "data" / "survey" / f"{name}.json")
    left_out, named, kinds = COUNTS[name]
    assert len(reading.left_out) == left_out
    assert reading.counts().get(f"{NAMED}: left out", 0) == named
    found = Counter(probe.kind for record in reading.records for probe in record.probes)
    assert {kind: found[kind] for kind in kinds} == kinds
    whole = data(drop_named_target=False).read(shared / "data" / "survey" / f"{name}.json")
    hops = sum(len(record.of_kind("one_hop")) for record in whole.records)
    assert hops == kinds.get("one_hop", 0) + named
