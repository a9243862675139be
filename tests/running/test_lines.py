"""A command line that cannot be is one line that names the right key."""

import json
import re

import pytest
import yaml
from hydra.errors import ConfigCompositionException
from scripts import ROOT, script  # noqa: F401

WRONG = [
    ("train data.limitt=3", "data.limitt: there is no such setting .* did you mean data.limit"),
    ("train data.limit=[", r"data\.limit=\[: no viable"),
    ("train data.limit=abc", "data.limit=abc: expected a whole number or null"),
    ("train model=nonsense", "Could not find 'model/nonsense'; there are atlas, "),
    ("train device=nonsense", "device=nonsense: expected cpu, cuda"),
    ("train a=b", "a: there is no such setting as the run is composed"),
    ("train +a=b", "a: the run as it is composed has no such setting"),
    ("train +data.limit2=${nope}", "data.limit2: .* no such setting; did you mean limit"),
    ("train hydra.run.dir=/proc/x", "/proc/x: No such file or directory"),
    ("train editor=rome", r"editor=rome: .*: python edit\.py editors=\[rome\]"),
    ("train trains=module", "trains=module: expected one of editor, module"),
    ("train seed=-1", "seed=-1: expected 0 to"),
    ("train preset=nonsense", "preset=nonsense: configs/preset has atlas, "),
    ("train editor.rank=1.5", "editor.rank=1.5: expected a whole number"),
    ("train editor.rank=0", "editor: rank must be at least 1, got 0"),
    ("train editor.training.lr=inf", "editor.training.lr=inf: expected a number"),
    ("train callbacks.stop.patience=-1", "callbacks.stop: patience must be at least 1, got -1"),
    ("train trainer.max_steps=-5", "trainer: .*max_steps"),
    ("train trainer.val_check_interval=0", "trainer.val_check_interval must be more than 0"),
    ("train editor.layers=[a,a]", "editor: layers: 'a' is named twice"),
    ("train --experimental-rerun=x.pickle", "reads a pickle, which may run code"),
    ("train rerun=gone", "rerun=gone: there is no config.yaml"),
    ("edit editor=rome", r"editor=rome: edit\.py takes a list of them: 'editors=\[rome\]'"),
    ("edit known_only=5", "known_only=5: expected true or false"),
    ("edit editors=[rome] +settings.rome.search.stepz=3", "settings.rome.search.stepz: Search has"),
    ("edit editors=[rome] +settings.rome.layer=x", "settings.rome.layer=x: expected a whole"),
    ("edit editors=[rome] corpus.source=3 corpus=pretrained", "corpus.source=3: expected text"),
    (
        "edit editors=[rome] corpus=pretrained model=pretrained model.path=/x",
        "model: no folder '/x'",
    ),
    ("edit rerun=gone data.limit=3", "rerun keeps the run's own settings; leave out data.limit=3"),
]


@pytest.mark.parametrize(("line", "error"), WRONG, ids=[line for line, _ in WRONG])
def test_what_cannot_be_is_one_line(line, error, script, tmp_path):  # noqa: F811
    name, *arguments = line.split()
    run = script(name, *arguments)
    assert re.search(error, run.error), run.error
    assert list(tmp_path.glob("runs/*/*")) == []


QUIET = ("++trainer.enable_progress_bar=false", "++trainer.enable_model_summary=false")
SMALL = (
    *("editors=[ft_m]", "data.limit=2", "++data.variants=1", "++settings.ft_m.steps=2"),
    *("protocol.generate=[]", *QUIET),
)


@pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")
def test_a_run_is_repeated_and_noted(script, tmp_path):  # noqa: F811
    first, folder = tmp_path / "elsewhere/kind/first", tmp_path / "moved"
    assert script("edit", *SMALL, f"hydra.run.dir={first}").code == 0
    first.rename(folder)
    run = script("edit", f"rerun={folder}", f"hydra.run.dir={tmp_path}/again")
    assert run.code == 0, run.err
    again = tmp_path / "again"
    assert (again / "results.json").read_text() == (folder / "results.json").read_text()
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in (folder, again)]
    configs[0]["trainer"]["default_root_dir"] = configs[1]["trainer"]["default_root_dir"]
    configs[0]["trainer"]["logger"]["save_dir"] = configs[1]["trainer"]["logger"]["save_dir"]
    assert configs[0] == configs[1]
    notes = json.loads((again / "notes.json").read_text())
    assert len(notes) == 1
    assert notes[0]["overrides"] == [f"rerun={folder}"]
    assert notes[0]["seed"] == 0
    assert notes[0]["packages"]["torch"]
    assert notes[0]["hardware"]["cores"] >= 1
    assert notes[0]["code"].keys() == {"commit", "changed"}
    assert script("edit", f"resume={again}").code == 0
    assert len(json.loads((again / "notes.json").read_text())) == 2


@pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")
def test_a_training_is_repeated_beside_others_of_its_kind(script, tmp_path):  # noqa: F811
    arguments = ["editor=ke", "+editor.lstm_width=4", "+editor.condition_width=4", *QUIET]
    arguments += ["trainer.max_steps=2", "trainer.val_check_interval=1", "data.batch_size=2"]
    arguments += ["trainer.limit_val_batches=1", "++data.variants=1"]
    run = script("train", *arguments)
    assert run.code == 0, run.err
    (first,) = (tmp_path / "runs/ke").iterdir()
    run = script("train", f"rerun={first}")
    assert run.code == 0, run.err
    _, again = sorted((tmp_path / "runs/ke").iterdir())
    results = [(path / "results.json").read_text() for path in (first, again)]
    assert results[0] == results[1]
    assert json.loads(results[0])[0]["val/count"] == 2
    notes = [json.loads((path / "notes.json").read_text()) for path in (first, again)]
    assert [len(entries) for entries in notes] == [1, 1]
    assert notes[0][0]["data"] == notes[1][0]["data"]


def test_hydra_s_trace_stands_where_it_is_asked_for(script, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigCompositionException):
        script("train", "data.limitt=3")
