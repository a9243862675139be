"""Runs that judge generated texts: by stop strings, by a judge, and without the judge they want."""

import json

import pytest
import torch
from fake_editors import Nothing, make_records, make_trainer, single

from evaluation.report.table import table
from scoring.answers import Verdict
from scoring.judging.agreement import labelled
from scoring.judging.endpoint import Endpoint
from scoring.judging.judge import Judge

RECORDS = make_records(4)
LABELS = {case.prompt: label for case, label in labelled()}


class Strict(Judge):
    """Right is what it was told so; of every third text of a run it says nothing."""

    def __init__(self):
        self.asked = 0

    def identity(self):
        return {"judge": "strict"}

    def ask(self, cases):
        verdicts = []
        for case in cases:
            self.asked += case.prompt not in LABELS
            silent = case.prompt not in LABELS and self.asked % 3 == 0
            verdict = Verdict(LABELS.get(case.prompt, False))
            verdicts.append(Verdict(None, "unparseable") if silent else verdict)
        return verdicts


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))


def run(language_model, folder, **options):
    kinds = ("reliability", "one_hop", "unrelated")
    options = {"generate": kinds, "max_new_tokens": 6, "scorer": "judge", **options}
    protocol = single({"nothing": Nothing(language_model)}, RECORDS, folder, **options)
    make_trainer().test(protocol, verbose=False)
    rows = json.loads((folder / "results.json").read_text())
    lines = [
        json.loads(line)
        for path in sorted((folder / "answers" / "nothing").iterdir())
        for line in path.read_text().splitlines()
    ]
    return protocol, rows, lines


def of(rows, scorer, probe="reliability", editor="nothing"):
    return [
        row
        for row in rows
        if (row["scorer"], row["probe"], row["editor"]) == (scorer, probe, editor)
    ]


def test_texts_end_at_stop_strings_and_rows_say_so(language_model, tmp_path):
    _, _, free = run(language_model, tmp_path / "free", scorer=None)
    texts = [line["generated"] for line in free if line["generated"]]
    char = next(c for c in texts[0].strip())
    _, rows, lines = run(language_model, tmp_path / "cut", scorer=None, stop=[char])
    assert all(char not in line["generated"] for line in lines if line["generated"] is not None)
    assert {row["free"] for row in rows} == {f"6 tokens {char!r}"}
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["stop"] == [char]
    with pytest.raises(ValueError, match=r"stop='\.': expected a list"):
        run(language_model, tmp_path / "no", stop=".")


def test_a_judge_is_a_scorer_with_its_agreement_and_its_silence(language_model, tmp_path):
    judge = Strict()
    protocol, rows, lines = run(language_model, tmp_path, judge=judge)
    assert protocol.scorer == "judge" and of(rows, "judge")[0]["mean"] == 0
    assert of(rows, "judge", "unrelated") == []  # what is right there, no judge knows
    [agreed] = of(rows, "judge_agreement", "all", "unedited")
    assert (agreed["count"], agreed["records"], agreed["mean"]) == (200, 200, 1.0)
    assert 0.97 < agreed["low"] < 1 and agreed["reason"] == "strict, kappa 1.00"
    [silent] = of(rows, "no_verdict", "all")
    asked = [line for line in lines if line["verdict"] is not None]
    reasons = [line["verdict"] for line in asked if line["verdict"]]
    assert (silent["count"], silent["records"]) == (len(reasons), len(asked))
    assert set(reasons) == {"unparseable"}
    assert "strict" in json.dumps(json.loads((tmp_path / "run.json").read_text())["judge"])
    times = judge.asked
    run(language_model, tmp_path / "again", judge=judge)
    assert judge.asked == times  # all from the cache


def test_a_judge_that_is_not_there_costs_nothing_but_its_verdicts(language_model, tmp_path, caplog):
    judge = Endpoint(url="http://127.0.0.1:9", model="m", retries=0, pause=0.0)
    protocol, rows, _ = run(language_model, tmp_path, judge=judge)
    assert protocol.scorer == "normalized_exact_match"
    assert "no verdict of a judge: scored by normalized_exact_match instead" in caplog.text
    assert of(rows, "judge") == [] and len(of(rows, "normalized_exact_match")) == 1
    [silent] = of(rows, "no_verdict", "all")
    assert silent["count"] == silent["records"] and "no answer" in silent["reason"]
    [agreed] = of(rows, "judge_agreement", "all", "unedited")
    assert agreed["records"] == 0 and "no verdict on 200 of 200" in agreed["reason"]
    assert table(rows, scorer=protocol.scorer).renderables


def test_who_wants_a_judge_and_has_none_gets_exact_match(language_model, tmp_path, caplog):
    protocol, rows, _ = run(language_model, tmp_path)
    assert protocol.scorer == "normalized_exact_match"
    assert "no verdict of a judge" in caplog.text
    assert {row["scorer"] for row in rows}.isdisjoint({"judge_agreement", "no_verdict"})


def test_an_edit_of_nothing_gains_nothing_on_any_probe(language_model, tmp_path):
    torch.manual_seed(0)
    _, rows, _ = run(language_model, tmp_path, scorer=None)
    scored = [row for row in rows if "gain" in row]
    assert scored and all(row["gain"] == 0 and row["floor"] == row["mean"] for row in scored)
    assert all(row["gain_low"] <= 0 <= row["gain_high"] for row in scored)
