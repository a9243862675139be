"""``python edit.py protocol=batch`` and ``protocol=sequential``."""

import json
import re
import shutil

import pytest
from scripts import call, script  # noqa: F401
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edits import Journal, load
from models.atlas import language_model as shipped

QUICK = (
    "editors=[ft_m]",
    *("data.limit=6", "++data.variants=1", "++settings.ft_m.steps=2", "protocol.generate=[]"),
    *("++trainer.enable_progress_bar=false", "++trainer.enable_model_summary=false"),
)
BATCH = ("protocol=batch", "protocol.sizes=[1,3]", *QUICK)
SEQUENTIAL = ("protocol=sequential", "protocol.length=4", "protocol.step=1", *QUICK)
SEQUENTIAL += ("protocol.checkpoints=[2]", "protocol.texts=20")


def rows_of(folder):
    rows = json.loads((folder / "results.json").read_text())
    return {(r["editor"], r["n"], r["phase"], r["probe"], r["scorer"]): r for r in rows}


def curves_of(folder):
    """Tag to the steps at which it has a value."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """The folder of a run of four edits in a row."""
    folder = tmp_path_factory.mktemp("sequential") / "run"
    assert call("edit", *SEQUENTIAL, f"hydra.run.dir={folder}") == 0
    return folder


def test_a_batch_is_made_measured_and_drawn(script, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    run = script("edit", *BATCH, f"hydra.run.dir={folder}")
    assert run.code == 0, run.err
    assert "batch edits" in run.out
    rows = rows_of(folder)
    for n in (1, 3):
        row = rows["ft_m", n, "immediate", "reliability", "exact_match"]
        assert (row["protocol"], row["step"], row["records"]) == ("batch", n, 6)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert str(folder / "curves.png") in run.out
    assert curves_of(folder)["test_immediate/reliability/ft_m"] == [1, 3]


def test_a_sequence_is_made_measured_and_drawn(sequence):
    rows = rows_of(sequence)
    for n in (2, 4):
        for phase in ("immediate", "retention"):
            row = rows["ft_m", n, phase, "reliability", "exact_match"]
            assert (row["protocol"], row["step"], row["records"]) == ("sequential", 1, n)
        assert rows["ft_m", n, "immediate", "all", "perplexity"]["count"] == 20
    assert (sequence / "curves.png").is_file()
    curves = curves_of(sequence)
    assert curves["test_retention/reliability/ft_m"] == [2, 4]
    assert curves["test_immediate/perplexity/ft_m"] == [2, 4]
    edit = load(sequence / "edits/ft_m/000001.safetensors", shipped())
    assert isinstance(edit, Journal) and edit.steps == 4


def test_a_sequence_that_was_interrupted_goes_on(sequence, script, tmp_path):  # noqa: F811
    folder = tmp_path / "again"
    shutil.copytree(sequence, folder)
    config = (folder / "config.yaml").read_text().replace(str(sequence), str(folder))
    (folder / "config.yaml").write_text(config)
    for path in [folder / "answers/ft_m/000001.jsonl", *folder.glob("results.*")]:
        path.unlink()
    run = script("edit", f"resume={folder}", f"hydra.run.dir={tmp_path}/new")
    assert run.code == 0, run.err
    assert "ft_m: 4 of 4 edits" in run.out
    assert "ft_m: 2 of 4 edits" not in run.out
    assert rows_of(folder) == rows_of(sequence)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["protocol=batch", "protocol.sizes=[7]"], "sizes=.7.: a batch of 7 is larger than the 6"),
        (["protocol=sequential", "protocol.length=7"], "length=7: expected 1 to 6"),
        (["protocol=sequential", "protocol.checkpoints=[9]"], "checkpoints=.9.: expected numbers"),
        (["protocol=sequential", "protocol.text=nope.txt"], "no file 'nope.txt'"),
        (["protocol=sequential", "protocol.step=x"], "protocol.step=x: expected a whole number"),
        (["protocol=batch", "protocol.conflicts=x"], "conflicts is 'x', expected one of last"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, error, script, tmp_path):  # noqa: F811
    run = script("edit", *QUICK, *arguments, f"hydra.run.dir={tmp_path}/run")
    assert re.search(error, run.error), run.error
    assert not (tmp_path / "run/results.json").exists()


def test_a_protocol_that_is_none_is_named_with_those_there_are(script, tmp_path):  # noqa: F811
    run = script("edit", *QUICK, "protocol=many", f"hydra.run.dir={tmp_path}/run")
    assert run.code != 0
    for name in ("many", "single", "batch", "sequential"):
        assert name in run.err
