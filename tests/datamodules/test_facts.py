"""A person's table of facts: CSV, JSON, JSON lines; a subject is guessed where it may be."""

import json

import pytest

from datamodules.facts import read_facts, subject_of
from datamodules.records import Request

ROWS = [
    {"prompt": "Lagos is a city in", "subject": "Lagos", "target_new": "Sweden"},
    {
        "prompt": "The capital of Japan is",
        "subject": "Japan",
        "target_new": "Paris, France",
        "ground_truth": "Tokyo",
        "rephrase_prompt": "Japan's capital is",
    },
]


def written(path, rows):
    if path.suffix == ".csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [names, *([row.get(name, "") for name in names] for row in rows)]
        text = "\n".join(",".join(json.dumps(cell) if "," in cell else cell for cell in line)
                         for line in lines)  # fmt: skip
    elif path.suffix == ".jsonl":
        text = "\n".join(map(json.dumps, rows))
    else:
        text = json.dumps(rows)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["facts.csv", "facts.json", "facts.jsonl"])
def test_one_table_in_three_formats(tmp_path, name):
    facts = read_facts(written(tmp_path / name, ROWS))
    assert [record.requests for record in facts.records] == [
        (Request("Lagos is a city in", "Lagos", "Sweden"),),
        (Request("The capital of Japan is", "Japan", "Paris, France", "Tokyo"),),
    ]
    assert [probe.prompt for record in facts.records for probe in record.probes] == [
        "Japan's capital is"
    ]
    assert facts.guessed == {}


def test_a_row_that_cannot_be_used_is_named(tmp_path):
    rows = [*ROWS, {"prompt": "Oslo is in", "subject": "Bergen", "target_new": "Peru"}, {"a": "b"}]
    facts = read_facts(written(tmp_path / "facts.csv", rows))
    assert len(facts.records) == 2
    assert [left.index for left in facts.reading.left_out] == [2, 3]
    assert "'Bergen' is not in the prompt" in facts.reading.left_out[0].reason
    with pytest.raises(
        ValueError, match=r"none of its 1 records can be used: facts.json\[0\].prom"
    ):
        read_facts(written(tmp_path / "facts.json", [{"a": "b"}]))


def test_a_missing_subject_is_guessed_where_it_may_be(tmp_path):
    path = written(
        tmp_path / "facts.csv", [{k: row[k] for k in row if k != "subject"} for row in ROWS]
    )
    facts = read_facts(path)
    assert [record.requests[0].subject for record in facts.records] == ["Lagos", "Japan"]
    assert facts.guessed == {"Lagos is a city in": "Lagos", "The capital of Japan is": "Japan"}
    with pytest.raises(ValueError, match="subject: is missing, and the editor changes what stands"):
        read_facts(path, guess=False)


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The Eiffel Tower is in", "Eiffel Tower"),
        ("What is the mother tongue of Angela Merkel?", "Angela Merkel"),
        ("In which country is Lagos?", "Lagos"),
        ("Windows 11 was made by", "Windows 11"),
        ("J. R. R. Tolkien wrote", "J. R. R. Tolkien"),
        ("St. John's is the capital of", "St. John's"),
        ("the opposite of hot is", None),
    ],
)
def test_the_longest_name_is_the_guess(prompt, subject):
    assert subject_of(prompt) == subject
