import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lightning as L
import pytest
import torch
from fake_editors import (
    Noise,
    Nothing,
    fakes,
    make_protocol,
    make_records,
    make_single,
    make_trainer,
    single,
)
from torch import nn

from datamodules.records import DEPTH, KINDS, LOCALITY
from edits import NOTHING
from evaluation.report.lines import UNEDITED
from evaluation.report.rows import RUN, scorer_of
from models import LanguageModel
from scoring.questions import Questions
from scoring.scorers import SCORERS

RECORDS = make_records(10)
NAMES = (UNEDITED, "nothing", "noise")


def run(editors, folder, records=RECORDS):
    trainer = make_trainer()
    trainer.test(make_single(editors, records, folder), verbose=False)
    return trainer


@pytest.fixture(scope="module")
def finished(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    trainer = run(fakes(language_model), folder)
    return folder, trainer


def rows_of(folder):
    rows = json.loads((folder / "results.json").read_text())
    return {(row["editor"], row["probe"], row["scorer"]): row for row in rows}


def lines_of(folder, editor):
    paths = sorted((folder / "answers" / editor).iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_an_edit_of_nothing_keeps_locality_and_base_reliability(finished):
    rows = rows_of(finished[0])
    for kind in LOCALITY:
        row = rows["nothing", kind, "exact_match"]
        assert (row["mean"], row["high"], row["gain"]) == (1.0, 1.0, 0.0)
        assert 0.72 < row["low"] < 0.9  # of ten records with up to two probes each
    for (editor, kind, scorer), row in rows.items():
        if editor == "nothing":
            assert row == {**rows[UNEDITED, kind, scorer], "editor": "nothing"}


def test_a_large_edit_does_not(finished):
    rows = rows_of(finished[0])
    assert rows["noise", "unrelated", "exact_match"]["mean"] < 1
    assert rows["noise", "unrelated", "token_accuracy"]["mean"] < 1


def test_rows_count_what_was_asked(finished):
    rows, kinds = rows_of(finished[0]), Counter(p.kind for r in RECORDS for p in r.questions)
    for editor in NAMES:
        for kind in KINDS:
            row = rows[
                editor, kind, "token_accuracy" if kind not in DEPTH else "probability_success"
            ]
            assert (row["count"], row["records"]) == (kinds[kind], len(RECORDS))
            assert row["low"] <= row["mean"] <= row["high"]
            generated = (editor, kind, "generation_exact_match") in rows
            assert generated == (kind in ("reliability", "unrelated"))
    assert rows["noise", "all", "harmonic_score"]["records"] == len(RECORDS)
    row = rows["noise", "reliability", "exact_match"]
    assert {name: row[name] for name in RUN[1:]} == {
        "model": "tiny-gpt2",
        "data": "fake",
        "split": "test",
        "protocol": "single",
        "n": 1,
        "step": 1,
        "phase": "immediate",
        "end": "none",
        "render": "text",
        "asked": "text",
        "free": "4 tokens",
    }


def test_each_row_sees_its_own_edit(finished, language_model):
    lines = iter(lines_of(finished[0], "noise"))
    for record in RECORDS:
        questions = Questions([record], generate=("reliability", "unrelated"), max_new_tokens=4)
        edit = Noise(language_model, strength=2.0).edit_each([record.requests[0]])
        after = questions.ask(edit.edited(language_model))
        before = questions.before(NOTHING.edited(language_model))
        for probe, new, old in zip(record.questions, after, before, strict=True):
            line = next(lines)
            assert (line["record"], line["probe"]) == (record.id, probe.kind)
            assert (line["prompt"], line["target"]) == (probe.prompt, probe.target)
            assert line["nll"] == pytest.approx(new.nll, abs=1e-4)
            assert line["generated"] == new.text
            assert line["generated_before"] == old.text
            assert line["exact_match"] == SCORERS["exact_match"](probe, new, old)
    assert next(lines, None) is None


def test_exact_matches_are_logged(finished):
    folder, trainer = finished
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    rows = rows_of(folder)
    assert logged == {
        f"test/{editor}/{kind}": pytest.approx(
            rows[editor, kind, scorer_of(kind, "exact_match")]["mean"]
        )
        for editor in NAMES
        for kind in KINDS
        if kind != "leak"  # no text is generated
    }


def test_costs(finished):
    folder, _ = finished
    costs = {row["editor"]: row for row in json.loads((folder / "efficiency.json").read_text())}
    assert list(costs) == list(NAMES)
    probes = sum(len(record.questions) for record in RECORDS)
    for name, row in costs.items():
        assert row["device"] == "cpu"
        assert row["probes"] == probes
        assert row["seconds_per_probe"] > 0
        assert row["edits"] == (0 if name == UNEDITED else len(RECORDS))
    assert costs["noise"]["seconds_per_edit"] > 0
    assert costs["noise"]["at_once"] == 3
    assert costs["noise"]["peak_gib"] > 0.01
    assert costs[UNEDITED]["seconds_per_edit"] is None


def test_a_stopped_run_ends_as_one_that_never_stopped(finished, language_model, tmp_path):
    whole, _ = finished
    with pytest.raises(SystemExit):  # Lightning's answer to an interrupt
        run(fakes(language_model, calls=2), tmp_path)
    assert sorted(p.name for p in (tmp_path / "answers" / "noise").iterdir()) == [
        "000000.jsonl",
        "000001.jsonl",
    ]
    assert not (tmp_path / "results.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "answers").rglob("*.jsonl")}
    run(fakes(language_model, calls=2), tmp_path)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    for name in ("results.json", "results.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    for path in (whole / "answers").rglob("*.jsonl"):
        assert (tmp_path / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_a_finished_run_prepares_nobody_and_reports_again(language_model, tmp_path):
    editors = fakes(language_model)
    run(editors, tmp_path, make_records(2))
    assert len(editors["noise"].preparations) == 1
    report = (tmp_path / "results.json").read_bytes()
    (tmp_path / "results.json").unlink()
    again = fakes(language_model)
    run(again, tmp_path, make_records(2))
    assert again["noise"].preparations == []
    assert (tmp_path / "results.json").read_bytes() == report


def test_an_editor_can_be_added_to_a_run(finished, language_model, tmp_path):
    editors = fakes(language_model)
    run({"nothing": editors["nothing"]}, tmp_path)
    run({"noise": editors["noise"]}, tmp_path)
    whole = (finished[0] / "results.json").read_bytes()
    assert (tmp_path / "results.json").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"records": make_records(9)}, "records: "),
        ({"split": "val"}, "split: 'test' there, 'val' here"),
        ({"records_per_chunk": 4}, "records_per_chunk: 3 there, 4 here"),
    ],
)
def test_a_folder_of_another_run_is_refused(language_model, tmp_path, change, match):
    editors = fakes(language_model)
    first = single(editors, RECORDS, tmp_path, records_per_chunk=3)
    first.folder.claim(first.identity())
    options = {"records": RECORDS, "records_per_chunk": 3} | change
    other = single(editors, options.pop("records"), tmp_path, **options)
    with pytest.raises(ValueError, match=match):
        other.folder.claim(other.identity())


def test_a_folder_of_another_model_or_another_editor_of_the_name_is_refused(tiny, tmp_path):
    model, other = tiny("gpt2"), tiny("gpt2", seed=1)
    first = single(fakes(model), RECORDS, tmp_path)
    first.folder.claim(first.identity())
    second = single(fakes(other), RECORDS, tmp_path)
    with pytest.raises(ValueError, match=r"another run \(model: "):
        second.folder.claim(second.identity())
    third = single({"noise": Noise(model, strength=1.0)}, RECORDS, tmp_path)
    with pytest.raises(ValueError, match=r"editors\.noise\.strength: 2\.0 there, 1\.0 here"):
        third.folder.claim(third.identity())


def test_a_trained_editor_goes_to_the_device_with_the_module(language_model, tmp_path):
    class Trained(Nothing, nn.Module):
        def __init__(self, language_model):
            nn.Module.__init__(self)
            super().__init__(language_model)
            self.weight = nn.Parameter(torch.zeros(2))

    protocol = single({"trained": Trained(language_model)}, RECORDS, tmp_path)
    names = dict(protocol.named_parameters())
    assert "trained.0.weight" in names
    assert any(name.startswith("language_model.") for name in names)


def test_inference_mode_is_refused(language_model, tmp_path):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="inference_mode=False"):
        trainer.test(single(fakes(language_model), RECORDS, tmp_path), verbose=False)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"editors": {}}, "editors is empty"),
        ({"editors": {"a/b": Nothing}}, "no editor can be called 'a/b'"),
        ({"editors": {UNEDITED: Nothing}}, "no editor can be called 'unedited'"),
        ({"records": []}, "records is empty"),
        ({"records": [*RECORDS, RECORDS[0]]}, "id 'record-0' occurs 2 times"),
        ({"records_per_chunk": 0}, "records_per_chunk must be at least 1, got 0"),
        ({"generate": ("locality",)}, r"generate: \['locality'\] are none of reliability"),
    ],
)
def test_arguments_that_cannot_be(language_model, tmp_path, change, match):
    options = {"editors": {"nothing": Nothing}, "records": RECORDS, "folder": tmp_path} | change
    options["editors"] = {n: make(language_model) for n, make in options["editors"].items()}
    with pytest.raises(ValueError, match=match):
        single(**options)


def test_editors_of_two_models_are_refused(tiny, tmp_path):
    editors = {"one": Nothing(tiny("gpt2")), "other": Nothing(tiny("gpt2", seed=1))}
    with pytest.raises(ValueError, match="one, other must share one language model"):
        single(editors, RECORDS, tmp_path)


@pytest.fixture
def two_processes(language_model, tmp_path):
    """Runs the evaluation of ``count`` records in two processes; returns the run's folder."""
    language_model.save(tmp_path / "model")

    def start(count, name="single"):
        script = Path(__file__).with_name("two_processes.py")
        command = [sys.executable, script, tmp_path / "model", tmp_path / "run", str(count), name]
        paths = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return tmp_path / "run"

    return start


def test_two_processes_give_the_results_of_one(finished, two_processes):
    folder = two_processes(len(RECORDS))
    for name in ("results.json", "results.csv"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.parametrize("name", ["batch", "sequential"])
def test_two_processes_give_the_results_of_one_in_other_protocols(
    name, two_processes, language_model, tmp_path
):
    trainer = make_trainer()
    alone = make_protocol(name, language_model, make_records(7), tmp_path / "alone")
    trainer.test(alone, verbose=False)
    folder = two_processes(7, name)
    for file in ("results.json", "results.csv"):
        assert (folder / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def test_a_process_without_a_share_waits_for_the_others(two_processes):
    rows = rows_of(two_processes(2))
    assert rows["nothing", "unrelated", "exact_match"]["records"] == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_results_of_a_cpu(finished, language_model, tmp_path):
    language_model.save(tmp_path / "model")
    model = LanguageModel.load(str(tmp_path / "model"))
    model.name = language_model.name
    trainer = make_trainer(accelerator="gpu")
    trainer.test(make_single(fakes(model), RECORDS, tmp_path / "run"), verbose=False)
    rows, expected = rows_of(tmp_path / "run"), rows_of(finished[0])
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        assert row["mean"] == pytest.approx(expected[key]["mean"], abs=1e-3)


def test_a_broken_edit_is_right_nowhere(language_model, tmp_path):
    run({"broken": Noise(language_model, strength=3e38)}, tmp_path)
    rows = rows_of(tmp_path)
    for probe in {row[1] for row in rows if row[0] == "broken"} & set(KINDS) - {"leak"}:
        assert rows["broken", probe, scorer_of(probe, "exact_match")]["mean"] == 0.0
        assert rows["broken", probe, scorer_of(probe, "token_accuracy")]["mean"] == 0.0
    asked = [line["answer"] for line in lines_of(tmp_path, "broken") if line["answer"] is not None]
    assert set(asked) == {"(not a number)"}
