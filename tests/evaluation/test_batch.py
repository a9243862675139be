import json
from dataclasses import replace

import pytest
from fake_editors import Adding, Nothing, make_records, make_trainer, single

from datamodules.records import Probe, Record
from edits import NOTHING
from evaluation.protocols.batch import Batch
from evaluation.report.lines import UNEDITED
from scoring.questions import Questions
from scoring.scorers import SCORERS

RECORDS = make_records(11)
ASKED = {"generate": ["reliability"], "max_new_tokens": 4}


def run(protocol):
    trainer = make_trainer()
    trainer.test(protocol, verbose=False)
    return trainer


def batch(language_model, folder, records=RECORDS, editor=None, **options):
    editors = {"adding": editor or Adding(language_model)}
    return Batch(editors, records, folder, data="fake", **ASKED, **options)


@pytest.fixture(scope="module")
def finished(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(batch(language_model, folder, sizes=[1, 4]))
    return folder


def rows_of(folder):
    rows = json.loads((folder / "results.json").read_text())
    return {(r["editor"], r["n"], r["probe"], r["scorer"]): r for r in rows}


def lines_of(folder, editor, n):
    paths = sorted((folder / "answers" / editor).iterdir())
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [line for line in lines if line["n"] == n]


def test_each_size_has_rows_over_its_whole_groups(finished):
    rows = rows_of(finished)
    for n, records in ((1, 11), (4, 8)):
        for editor in ("adding", UNEDITED):
            row = rows[editor, n, "reliability", "exact_match"]
            assert (row["protocol"], row["step"], row["phase"]) == ("batch", n, "immediate")
            assert row["records"] == records
            assert row["low"] <= row["mean"] <= row["high"]
    assert {n for _, n, _, _ in rows} == {1, 4}


def test_a_group_is_edited_together_and_asked_by_the_one_edit(finished, language_model):
    lines = iter(lines_of(finished, "adding", 4))
    for start in (0, 4):
        group = RECORDS[start : start + 4]
        edit = Adding(language_model).edit([record.requests[0] for record in group])
        questions = Questions(group, ("reliability",), 4)
        for answer in questions.ask(edit.edited(language_model)):
            line = next(lines)
            assert line["nll"] == pytest.approx(answer.nll, abs=1e-4)
            assert line["generated"] == answer.text
    assert next(lines, None) is None


def test_one_at_a_time_is_the_protocol_single(finished, language_model, tmp_path):
    editors = {"adding": Adding(language_model)}
    run(single(editors, RECORDS, tmp_path, data="fake", **ASKED))
    own, alone = lines_of(finished, "adding", 1), lines_of(tmp_path, "adding", 1)
    assert [{**line, "protocol": "single"} for line in own] == alone


def test_costs_are_told_by_n(finished):
    costs = json.loads((finished / "efficiency.json").read_text())
    assert [(r["editor"], r["n"], r["edits"], r["at_once"]) for r in costs] == [
        (UNEDITED, 1, 0, 0),
        (UNEDITED, 4, 0, 0),
        ("adding", 1, 11, 11),
        ("adding", 4, 8, 4),
    ]


def test_a_stopped_run_goes_on_behind_its_last_group(finished, language_model, tmp_path):
    stopping = Adding(language_model, calls=2)  # all groups of one, and one of four
    with pytest.raises(SystemExit):
        run(batch(language_model, tmp_path, editor=stopping, sizes=[1, 4]))
    done = sorted((tmp_path / "answers/adding").iterdir())
    assert len(done) == 2
    kept = {path: path.stat().st_mtime_ns for path in done}
    run(batch(language_model, tmp_path, sizes=[1, 4]))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in ("results.json", "results.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_batch_that_is_refused_is_counted_and_named(language_model, tmp_path, caplog):
    editor = Adding(language_model, refused="Tokyo 2")
    run(batch(language_model, tmp_path, editor=editor, sizes=[4]))
    rows = rows_of(tmp_path)
    row = rows["adding", 4, "all", "not_made"]
    assert (row["mean"], row["count"], row["records"]) == (0.5, 4, 8)
    assert row["reason"] == "4 x no Tokyo 2 here"
    assert rows["adding", 4, "reliability", "exact_match"]["records"] == 4
    assert rows[UNEDITED, 4, "reliability", "exact_match"]["records"] == 8
    assert "adding: no edit of 4 requests: no Tokyo 2 here" in caplog.text
    assert "4 of 8: 4 x no Tokyo 2 here" in (tmp_path / "results.md").read_text()


def test_an_editor_that_takes_no_batch_at_all_is_named_and_the_others_go_on(
    language_model, tmp_path
):
    editors = {"none": Adding(language_model, refused=" is "), "adding": Adding(language_model)}
    run(Batch(editors, RECORDS, tmp_path, sizes=[4], **ASKED))
    rows = rows_of(tmp_path)
    assert {key[2:] for key in rows if key[0] == "none"} == {("all", "not_made")}
    assert rows["none", 4, "all", "not_made"]["mean"] == 1
    assert rows["adding", 4, "reliability", "exact_match"]["records"] == 8


def test_requests_that_contradict_each_other_are_settled_and_told(language_model, tmp_path, caplog):
    first, *others = RECORDS
    later = replace(first, id="later", requests=(replace(first.requests[0], target="Tokyo"),))
    records = [first, *others[:2], later]
    run(batch(language_model, tmp_path, records, sizes=[1, 4]))
    rows = rows_of(tmp_path)
    row = rows["adding", 4, "all", "overruled"]
    assert (row["count"], row["records"], row["reason"]) == (1, 4, "record-0 by later")
    assert rows["adding", 4, "reliability", "exact_match"]["records"] == 3
    assert rows["adding", 1, "reliability", "exact_match"]["records"] == 4
    assert "batch of 4: 1 request contradicts a later one" in caplog.text
    with pytest.raises(ValueError, match=r"conflicts=refuse: 1 request contradicts"):
        batch(language_model, tmp_path, records, conflicts="refuse", sizes=[4])


def test_what_another_request_changes_is_asked_but_not_judged(language_model, tmp_path):
    first, second, *others = RECORDS
    changed = Probe("unrelated", first.requests[0].prompt, first.requests[0].target_true)
    records = [first, replace(second, probes=(changed,)), *others[:2]]
    run(batch(language_model, tmp_path, records, sizes=[1, 4]))
    for n, value in ((1, {0.0, 1.0}), (4, {None})):
        lines = lines_of(tmp_path, "adding", n)
        [line] = [line for line in lines if line["prompt"] == changed.prompt and line["index"]]
        assert line["exact_match"] in value
        assert line["judged"] == ("disturbed" if n == 4 else None)
    rows = rows_of(tmp_path)
    assert rows["adding", 4, "all", "disturbed"]["count"] == 1
    assert ("adding", 1, "all", "disturbed") not in rows


def paired(one, other):
    """One record of two requests, the second of which names its subject twice."""
    twice = f"{other.requests[0].subject}, {other.requests[0].prompt}"
    requests = (one.requests[0], replace(other.requests[0], prompt=twice))
    return Record("pair", requests, (*one.probes, *other.probes))


def test_all_requests_of_a_record_are_made_together_and_each_is_asked(language_model, tmp_path):
    records = [paired(*RECORDS[:2]), *RECORDS[2:4]]
    run(batch(language_model, tmp_path, records, sizes=[3]))
    requests = [*records[0].requests, RECORDS[2].requests[0], RECORDS[3].requests[0]]
    edit = Adding(language_model).edit(requests)
    questions = Questions(records, ("reliability",), 4)
    lines = lines_of(tmp_path, "adding", 3)
    for line, answer in zip(lines, questions.ask(edit.edited(language_model)), strict=True):
        assert line["nll"] == pytest.approx(answer.nll, abs=1e-4)
        assert line["mentions"] == (2 if line["record"] == "pair" else 1)
    asked = [(x["record"], x["prompt"]) for x in lines if x["probe"] == "reliability"]
    names = ["pair", "pair", *(record.id for record in RECORDS[2:4])]
    assert asked == [(name, r.prompt) for name, r in zip(names, requests, strict=True)]
    row = rows_of(tmp_path)["adding", 3, "reliability", "exact_match"]
    assert (row["count"], row["records"]) == (4, 3)
    repeated = rows_of(tmp_path)[UNEDITED, 3, "all", "subject_repeated"]
    assert (repeated["count"], repeated["records"], repeated["reason"]) == (2, 4, "pair")


def test_a_record_of_several_requests_is_one_edit_of_its_own(language_model, tmp_path):
    records = [paired(*RECORDS[:2]), *RECORDS[2:4]]
    run(batch(language_model, tmp_path, records, sizes=[1]))
    lines = iter(lines_of(tmp_path, "adding", 1))
    for record in records:
        edit = Adding(language_model).edit(record.requests).edited(language_model)
        for answer in Questions([record], ("reliability",), 4).ask(edit):
            assert next(lines)["nll"] == pytest.approx(answer.nll, abs=1e-4)
    costs = json.loads((tmp_path / "efficiency.json").read_text())
    assert [(r["editor"], r["edits"]) for r in costs] == [(UNEDITED, 0), ("adding", 4)]


def test_what_is_refused_of_a_record_are_all_its_requests(language_model, tmp_path):
    records = [paired(*RECORDS[:2]), *RECORDS[2:4]]
    run(
        batch(
            language_model,
            tmp_path,
            records,
            sizes=[3],
            editor=Adding(language_model, refused="Tokyo"),
        )
    )
    row = rows_of(tmp_path)["adding", 3, "all", "not_made"]
    assert (row["count"], row["records"], row["reason"]) == (4, 4, "4 x no Tokyo here")


class Speech(type(NOTHING)):
    """An edit that only generates."""

    scores = False


class Speaker(Nothing):
    def compute(self, groups, after):
        return Speech()


def test_an_editor_that_only_generates_is_judged_and_shown_by_what_it_says(
    language_model, tmp_path
):
    editors = {"adding": Adding(language_model), "speaker": Speaker(language_model)}
    protocol = Batch(editors, RECORDS[:2], tmp_path, sizes=[2], **ASKED)
    trainer = run(protocol)
    rows = rows_of(tmp_path)
    spoken = {key[3] for key in rows if key[0] == "speaker"}
    assert "generation_exact_match" in spoken
    assert {SCORERS[name].needs for name in spoken} == {"text"}
    assert ("adding", 2, "reliability", "exact_match") in rows
    line = lines_of(tmp_path, "speaker", 2)[0]
    assert line["generated"] == line["generated_before"]
    assert [line[name] for name in ("answer", "nll", "contrast_nll", "exact_match")] == [None] * 4
    assert line["before"] is not None
    mean = rows["adding", 2, "reliability", "generation_exact_match"]["mean"]
    assert trainer.logged_metrics["test/adding/reliability"] == pytest.approx(mean)


def test_the_scorer_that_is_named_is_logged(language_model, tmp_path):
    trainer = run(batch(language_model, tmp_path, RECORDS[:3], sizes=[3], scorer="token_accuracy"))
    row = rows_of(tmp_path)["adding", 3, "one_hop", "token_accuracy"]
    assert trainer.logged_metrics["test/adding/one_hop"] == pytest.approx(row["mean"])
    with pytest.raises(ValueError, match="scorer is 'bleu', expected one of exact_match, token_"):
        batch(language_model, tmp_path, scorer="bleu")


def test_what_presumes_what_the_model_does_not_know_is_asked_but_not_judged(
    language_model, tmp_path
):
    first, second = RECORDS[:2]
    known = Probe("one_hop", "Lagos is in", "Japan", known=(("Tokyo is in", "Sweden"),))
    run(batch(language_model, tmp_path, [replace(first, probes=(known,)), second], sizes=[1]))
    for editor in (UNEDITED, "adding"):
        line = lines_of(tmp_path, editor, 1)[1]
        assert (line["prompt"], line["judged"]) == ("Lagos is in", "unknown")
        assert line["nll"] is not None and line["exact_match"] is None
        row = rows_of(tmp_path)[editor, 1, "all", "unknown"]
        probes = 2 + len(second.questions)
        assert (row["count"], row["records"]) == (1, probes)


def test_sizes_go_as_far_as_the_records(language_model, tmp_path):
    assert batch(language_model, tmp_path).sizes == [1, 10]
    parts = batch(language_model, tmp_path, sizes=[1, 3], groups=2).chunks()
    assert [(part.n, [r.id for r in part.records]) for part in parts] == [
        (1, ["record-0", "record-1"]),
        (3, ["record-0", "record-1", "record-2"]),
        (3, ["record-3", "record-4", "record-5"]),
    ]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sizes": [1, 12]}, r"sizes=\[1, 12\]: a batch of 12 is larger than the 11 records"),
        ({"sizes": [0]}, r"sizes=\[0\]: expected different numbers from 1"),
        ({"sizes": []}, r"sizes=\[\]: expected different"),
        ({"sizes": [2, 2]}, r"sizes=\[2, 2\]: expected different"),
        ({"sizes": 10}, "sizes=10: expected different"),
        ({"sizes": ["x"]}, r"sizes=\['x'\]: expected different"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"conflicts": "first"}, "conflicts is 'first', expected one of last, refuse"),
        ({"records_per_chunk": 0}, "records_per_chunk must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(language_model, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        batch(language_model, tmp_path, **options)


def test_a_folder_of_other_sizes_is_refused(language_model, tmp_path):
    first = batch(language_model, tmp_path, sizes=[1, 4])
    first.folder.claim(first.identity())
    second = batch(language_model, tmp_path, sizes=[1, 5])
    with pytest.raises(ValueError, match=r"another run \(sizes: "):
        second.folder.claim(second.identity())
