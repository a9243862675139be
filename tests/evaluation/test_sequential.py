import json
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from fake_editors import Adding, Alone, Nothing, make_records, make_trainer

from datamodules.records import LOCALITY, Probe
from edits import NOTHING, Journal, load
from edits.weights import WeightEdit
from evaluation.protocols import sequential
from evaluation.protocols.sequential import Sequential
from evaluation.report.lines import UNEDITED
from scoring.questions import Questions

RECORDS = make_records(8)
TEXTS = ["Tokyo is the capital of Japan.", "Gothenburg is a city in Sweden."]
ASKED = {"generate": ["reliability"], "max_new_tokens": 4}
STEPS = {"length": 7, "step": 2, "checkpoints": [2, 4]}


def sequence(language_model, folder, records=RECORDS, editor=None, **options):
    editors = {"adding": editor or Adding(language_model)}
    options = {"text": TEXTS, **STEPS, **ASKED, **options}
    return Sequential(editors, records, folder, data="fake", **options)


def run(protocol):
    trainer = make_trainer()
    trainer.test(protocol, verbose=False)
    return trainer


@pytest.fixture(scope="module")
def finished(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(sequence(language_model, folder))
    return folder


def rows_of(folder):
    rows = json.loads((folder / "results.json").read_text())
    return {(r["editor"], r["n"], r["phase"], r["probe"], r["scorer"]): r for r in rows}


def lines_of(folder, editor="adding"):
    """Lines by n and phase."""
    found = defaultdict(list)
    for path in sorted((folder / "answers" / editor).iterdir()):
        for line in map(json.loads, path.read_text().splitlines()):
            found[line["n"], line["phase"]].append(line)
    return found


def chain(language_model, steps):
    """The edit after each step, made by hand."""
    edit, found = None, []
    for records in steps:
        edit = Adding(language_model).edit([record.requests[0] for record in records], edit)
        found.append(edit)
    return found


def agree(lines, questions, model, language_model):
    before = questions.before(NOTHING.edited(language_model))
    for line, new, old in zip(lines, questions.ask(model), before, strict=True):
        assert line["nll"] == pytest.approx(new.nll, abs=1e-4)
        assert line["generated"] == new.text
        assert line["generated_before"] == old.text
        if line["probe"] in LOCALITY:
            assert line["exact_match"] == float(
                new.readings[0].predicted == old.readings[0].predicted
            )


def test_each_step_is_asked_right_after_it_and_all_of_them_at_checkpoints(finished, language_model):
    steps = [RECORDS[0:2], RECORDS[2:4], RECORDS[4:6], RECORDS[6:7]]
    edits = [edit.edited(language_model) for edit in chain(language_model, steps)]
    lines = lines_of(finished)
    assert lines.keys() == {(n, p) for n in (2, 4, 7) for p in ("immediate", "retention")}
    immediate = iter([*lines[2, "immediate"], *lines[4, "immediate"], *lines[7, "immediate"]])
    for records, model in zip(steps, edits, strict=True):
        questions = Questions(records, ("reliability",), 4)
        own = [next(immediate) for _ in questions.probes]
        agree(own, questions, model, language_model)
    assert next(immediate, None) is None
    for n, model in ((2, edits[0]), (4, edits[1]), (7, edits[3])):
        questions = Questions(RECORDS[:n], ("reliability",), 4)
        agree(lines[n, "retention"], questions, model, language_model)


def test_both_phases_of_an_n_are_about_the_same_records(finished):
    rows = rows_of(finished)
    for n in (2, 4, 7):
        for editor, phase in (
            ("adding", "immediate"),
            ("adding", "retention"),
            (UNEDITED, "immediate"),
        ):
            row = rows[editor, n, phase, "reliability", "exact_match"]
            assert (row["records"], row["step"], row["protocol"]) == (n, 2, "sequential")
    one, other = (
        [rows["adding", 2, phase, kind, "exact_match"]["mean"] for kind in LOCALITY]
        for phase in ("immediate", "retention")
    )
    assert one == other


def test_what_requests_so_far_change_is_not_judged(language_model, tmp_path):
    first, second, third = RECORDS[:3]
    changed = Probe("unrelated", third.requests[0].prompt, third.requests[0].target_true)
    records = [first, replace(second, probes=(changed,)), third]
    run(sequence(language_model, tmp_path, records, length=3, step=1, checkpoints=[2]))
    found = {
        key: next(line["judged"] for line in lines if line["prompt"] == changed.prompt)
        for key, lines in lines_of(tmp_path).items()
        if any(line["prompt"] == changed.prompt and line["index"] for line in lines)
    }
    assert found == {(2, "immediate"): None, (2, "retention"): None, (3, "retention"): "disturbed"}


def test_the_size_of_the_change_and_the_perplexity_are_told(finished, language_model):
    rows, edits = rows_of(finished), chain(language_model, [RECORDS[:2], RECORDS[2:4]])
    for n, edit in zip((2, 4), edits, strict=True):
        [norm] = edit.norms().values()
        row = rows["adding", n, "immediate", "all", "update_norm"]
        assert row["mean"] == pytest.approx(float(norm), rel=1e-4)
        assert ("adding", n, "immediate", "all", "relative_norm") in rows
        row = rows["adding", n, "immediate", "all", "perplexity"]
        assert row["low"] <= row["mean"] <= row["high"]
    own = {rows[UNEDITED, n, "immediate", "all", "perplexity"]["mean"] for n in (2, 4, 7)}
    assert len(own) == 1


def test_a_model_that_broke_is_named(language_model, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sequential, "ALARM", 0.0)
    run(sequence(language_model, tmp_path, checkpoints=[]))
    assert "adding: after 7 edits the perplexity of held-out text is" in caplog.text


def test_the_edit_is_saved_at_each_checkpoint_and_cut_back(finished, language_model):
    path = finished / "edits/adding"
    assert sorted(p.name for p in path.iterdir()) == [f"00000{c}.safetensors" for c in range(3)]
    whole = load(path / "000002.safetensors", language_model)
    assert isinstance(whole, Journal) and whole.steps == 4
    for number, steps in ((0, 1), (1, 2)):
        then, cut = load(path / f"00000{number}.safetensors", language_model), whole.cut(steps)
        for name, update in then.updates.items():
            assert torch.equal(update.left, cut.updates[name].left)
            assert torch.equal(update.right, cut.updates[name].right)


def test_costs_are_told_by_checkpoint(finished):
    costs = json.loads((finished / "efficiency.json").read_text())
    assert [(r["n"], r["edits"], r["at_once"]) for r in costs if r["editor"] == "adding"] == [
        (2, 2, 2),
        (4, 2, 2),
        (7, 3, 2),
    ]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_stopped_run_goes_on_at_its_last_checkpoint(finished, language_model, tmp_path, steps):
    with pytest.raises(SystemExit):
        run(sequence(language_model, tmp_path, editor=Adding(language_model, calls=steps)))
    assert not (tmp_path / "results.json").exists()
    again = Adding(language_model, calls=4 - min(steps, 2))  # and not one more
    run(sequence(language_model, tmp_path, editor=again))
    for name in ("results.json", "results.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    for path in (finished / "answers").rglob("*.jsonl"):
        assert (tmp_path / path.relative_to(finished)).read_bytes() == path.read_bytes()
    file = "edits/adding/000002.safetensors"
    one, other = (load(folder / file, language_model) for folder in (finished, tmp_path))
    assert one.ends == other.ends


def test_a_finished_run_makes_no_edit(finished, language_model, tmp_path):
    run(sequence(language_model, tmp_path))
    run(sequence(language_model, tmp_path, editor=Adding(language_model, calls=0)))
    assert rows_of(tmp_path) == rows_of(finished)


def test_a_step_that_is_refused_is_counted_and_the_sequence_goes_on(
    finished, language_model, tmp_path, caplog
):
    def editor():
        return Adding(language_model, refused="Tokyo 2")  # the second step

    run(sequence(language_model, tmp_path / "whole", editor=editor()))
    rows = rows_of(tmp_path / "whole")
    assert ("adding", 2, "immediate", "all", "not_made") not in rows
    for n in (4, 7):
        row = rows["adding", n, "immediate", "all", "not_made"]
        assert (row["count"], row["records"], row["reason"]) == (2, n, "2 x no Tokyo 2 here")
        assert rows["adding", n, "retention", "reliability", "exact_match"]["records"] == n - 2
    assert "adding: no edit of 'record-2': no Tokyo 2 here" in caplog.text
    stopping = editor()
    stopping.left = 2  # a refusal is no call that counts
    with pytest.raises(SystemExit):
        run(sequence(language_model, tmp_path / "stopped", editor=stopping))
    run(sequence(language_model, tmp_path / "stopped", editor=editor()))
    assert rows_of(tmp_path / "stopped") == rows


def test_an_editor_that_takes_no_edit_before_is_named(language_model, tmp_path):
    editors = {"alone": Alone(language_model), "adding": Adding(language_model)}
    run(Sequential(editors, RECORDS, tmp_path, **STEPS, **ASKED))
    rows = rows_of(tmp_path)
    row = rows["alone", 7, "immediate", "all", "not_made"]
    assert (row["count"], row["records"]) == (5, 7)
    assert row["reason"] == "5 x alone edits the clean model only"
    assert rows["adding", 7, "retention", "reliability", "exact_match"]["records"] == 7
    assert not any(scorer == "perplexity" for *_, scorer in rows)  # no texts were given


def test_an_editor_that_can_make_nothing_has_no_other_rows(language_model, tmp_path):
    run(sequence(language_model, tmp_path, editor=Adding(language_model, refused=" is ")))
    own = {key[3:] for key in rows_of(tmp_path) if key[0] == "adding"}
    assert own == {("all", "not_made")}
    assert not (tmp_path / "edits").exists()


class Forgetful(Adding):
    """Its edits hold the last step only."""

    def compute(self, groups, after):
        edit = super().compute(groups, after)
        return WeightEdit(edit.updates, edit.editor, edit.model)


def test_an_edit_without_the_steps_before_is_refused_where_they_are_kept(language_model, tmp_path):
    run(sequence(language_model, tmp_path / "kept", editor=Forgetful(language_model)))
    row = rows_of(tmp_path / "kept")["adding", 7, "immediate", "all", "not_made"]
    assert "does not hold the steps made before" in row["reason"]
    run(
        sequence(
            language_model, tmp_path / "plain", editor=Forgetful(language_model), journal=False
        )
    )
    rows = rows_of(tmp_path / "plain")
    assert ("adding", 7, "immediate", "all", "not_made") not in rows
    edit = load(tmp_path / "plain/edits/adding/000002.safetensors", language_model)
    assert type(edit) is WeightEdit


def test_requests_of_one_step_that_contradict_each_other(language_model, tmp_path, caplog):
    first, second = RECORDS[:2]
    later = replace(first, id="later", requests=(replace(first.requests[0], target="Tokyo"),))
    options = {"length": 3, "step": 2, "checkpoints": None}
    run(sequence(language_model, tmp_path / "a", [first, later, second], **options))
    rows = rows_of(tmp_path / "a")
    row = rows["adding", 3, "immediate", "all", "overruled"]
    assert (row["count"], row["records"], row["reason"]) == (1, 3, "record-0 by later")
    assert rows["adding", 3, "retention", "reliability", "exact_match"]["records"] == 2
    assert "sequence: 1 request contradicts a later one" in caplog.text
    run(sequence(language_model, tmp_path / "b", [first, second, later], **options))
    assert not any(scorer == "overruled" for *_, scorer in rows_of(tmp_path / "b"))
    with pytest.raises(ValueError, match="conflicts=refuse: 1 request contradicts"):
        sequence(
            *(language_model, tmp_path / "c", [first, later, second]),
            **{**options, "conflicts": "refuse"},
        )


def test_checkpoints(language_model, tmp_path):
    def of(**options):
        records = make_records(30)
        return sequence(language_model, tmp_path, records, **options).checkpoints

    assert of(length=None, step=1, checkpoints=None) == [1, 10, 30]
    assert of(length=25, step=2, checkpoints=None) == [2, 20, 25]
    assert of(length=10, step=1, checkpoints=None) == [1, 10]
    assert of(length=10, step=1, checkpoints=[]) == [10]
    assert of(length=10, step=1, checkpoints=[7, 3, 10]) == [3, 7, 10]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"length": 9}, "length=9: expected 1 to 8, the records there are"),
        ({"length": 0}, "length=0: expected 1 to 8"),
        ({"step": 0}, "step must be at least 1, got 0"),
        ({"texts": 0}, "texts must be at least 1, got 0"),
        ({"checkpoints": [3]}, r"checkpoints=\[3\]: expected .* end of a step of 2"),
        ({"checkpoints": [8]}, r"checkpoints=\[8\]: expected numbers of edits from 2 to 7"),
        ({"checkpoints": 4}, "checkpoints=4: expected numbers"),
        ({"checkpoints": ["x"]}, r"checkpoints=\['x'\]: expected numbers"),
        ({"conflicts": "first"}, "conflicts is 'first', expected one of last, refuse"),
    ],
)
def test_settings_that_cannot_be(language_model, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        sequence(language_model, tmp_path, **options)


def test_devices_share_the_editors(language_model, tmp_path):
    editors = {name: Nothing(language_model) for name in "ab"}
    protocol = Sequential(editors, RECORDS, tmp_path, **STEPS)
    units = [(name, number) for name in (UNEDITED, "a", "b") for number in range(2)]
    assert protocol.share(units, 0, 2) == [(UNEDITED, 0), (UNEDITED, 1), ("b", 0), ("b", 1)]
    assert protocol.share(units, 1, 2) == [("a", 0), ("a", 1)]
