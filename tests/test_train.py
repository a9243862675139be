"""``python train.py``: what a run leaves behind, and what it says when it cannot run."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from scripts import ROOT, call, script  # noqa: F401
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.language_model import LanguageModel

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]

SHORT = (
    "trainer.max_steps=2",
    "trainer.val_check_interval=1",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "++trainer.enable_progress_bar=false",
    "++data.variants=1",
    "data.batch_size=2",
    "++editor.rank=4",
    "++editor.training.statistics_edits=8",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("train") / "run"
    assert call("train", "editor=mend", *SHORT, "seed=3", f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def events(run):
    events = EventAccumulator(str(run))
    events.Reload()
    return events


def test_the_resolved_configuration_is_kept(run):
    text = (run / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text
    assert config["editor"]["_target_"] == "editors.meta_learning.mend.Mend"
    assert config["data"]["seed"] == config["seed"] == 3
    assert config["trainer"]["default_root_dir"] == str(run)


def test_curves_are_where_tensorboard_finds_them(events):
    tags = set(events.Tags()["scalars"])
    assert {"train/edit_loss", "train/locality_loss", "train/grad_norm"} <= tags
    assert {f"val/{n}" for n in ("reliability", "generalization", "locality", "score")} <= tags
    assert "train/edits_per_second" in tags
    assert [event.step for event in events.Scalars("train/edit_loss")] == [0, 1]
    assert "val/examples/text_summary" in events.Tags()["tensors"]


def test_checkpoints_hold_the_editor_alone_and_load_safely(run):
    for name in ("best", "last"):
        path = run / "checkpoints" / f"{name}.ckpt"
        saved = torch.load(path, weights_only=True)
        assert saved["editor"] == "mend"
        assert saved["language_model"]["name"] == "atlas"
        assert not any(key.startswith("language_model.") for key in saved["state_dict"])
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_results_are_those_of_the_best_checkpoint(run):
    [results] = json.loads((run / "results.json").read_text())
    saved = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    best = next(c for n, c in saved["callbacks"].items() if n.startswith("Best"))
    assert results["val/score"] == pytest.approx(float(best["best_model_score"]))
    assert 0 <= results["val/reliability"] <= 1


def test_tensorboard_compares_runs_by_what_they_reached(run, events):
    assert "_hparams_/session_start_info" in events.summary_metadata
    [results] = json.loads((run / "results.json").read_text())
    [reached] = events.Scalars("best/score")
    assert reached.value == pytest.approx(results["val/score"])


def test_a_run_that_ends_between_two_validations_is_kept(script, tmp_path):  # noqa: F811
    arguments = [*SHORT, "trainer.val_check_interval=5", f"hydra.run.dir={tmp_path}/run"]
    assert script("train", "editor=mend", *arguments).code == 0
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert "val/score" in json.loads((tmp_path / "run/results.json").read_text())[0]


def test_resuming_goes_on_from_the_last_step(run, script, tmp_path):  # noqa: F811
    last = run / "checkpoints/last.ckpt"
    arguments = [*SHORT, "trainer.max_steps=3", f"resume={last}", f"hydra.run.dir={tmp_path}/on"]
    assert script("train", "editor=mend", *arguments).code == 0
    saved = torch.load(tmp_path / "on/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    events = EventAccumulator(str(tmp_path / "on"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/edit_loss")] == [2]


def test_resuming_equals_never_having_stopped(script, tmp_path):  # noqa: F811
    """At the end of an epoch; epochs of one batch. (A decay would depend on the planned length.)"""
    arguments = [
        "editor=mend",
        *SHORT,
        "++trainer.limit_train_batches=1",
        "++editor.training.decay=0.0",
    ]
    for folder, more in [
        ("straight", []),
        ("one", ["trainer.max_steps=1"]),
        ("resumed", [f"resume={tmp_path}/one/checkpoints/last.ckpt"]),
    ]:
        assert script("train", *arguments, *more, f"hydra.run.dir={tmp_path}/{folder}").code == 0
    straight, resumed = (
        torch.load(tmp_path / folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in ("straight", "resumed")
    )
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["resume=gone.ckpt"], "resume=gone.ckpt: there is no such checkpoint"),
        (["resume=."], "resume=.*: there is no config.yaml of a run in it"),
        ([f"resume={__file__}"], "this is no checkpoint"),
        (["++editor.rnak=3"], "editor.rnak: Mend has no such setting; did you mean rank"),
        (["editor.training.lr=fast"], "editor.training.lr=fast: expected a number"),
        (["++data.limit=few"], "data.limit=few: expected a whole number or null"),
        (["++editor.layers=[]"], r"layers: expected a list of names, got \[\]"),
        (["data.batch_size=0"], "data: batch_size is 0; expected at least 1"),
        (["data=counterfact", "data.train=gone.json"], "gone.json"),
        (["model=pretrained", "model.path=./gone"], "model: no folder 'gone'"),
        (["++editor.layers=[transformer.h.9.mlp.c_fc]"], r"transformer\.h\.9\.mlp\.c_fc"),
        (["++editor.training.tokens=some"], "tokens is 'some', expected one of all, target"),
        (["model=pretrained"], "model.path"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, error, script, tmp_path):  # noqa: F811
    short = [a for a in SHORT if not a.startswith("++data")]
    run = script("train", *short, *arguments, f"hydra.run.dir={tmp_path}/run")
    assert re.search(error, run.error), run.error
    assert not list(tmp_path.glob("**/*.ckpt"))
    assert not (tmp_path / "run/results.json").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("editor=nope", ["editor/nope", "there are", "mend"]),
        ("editor.rnak=3", ["did you mean editor.rank", "+editor.rnak=..."]),
    ],
)
def test_hydra_names_what_it_does_not_know(argument, words, script, tmp_path):  # noqa: F811
    run = script("train", argument, f"hydra.run.dir={tmp_path}/run")
    assert run.code != 0
    assert "Traceback" not in run.err
    assert all(word in run.err for word in words)
    assert not (tmp_path / "run").exists()


def test_the_language_model_is_made_by_the_same_script(script, tmp_path):  # noqa: F811
    """The experiment of the shipped model, much smaller; its folder is a language model's."""
    shape = ["n_layer=1", "n_embd=16", "n_head=2", "n_positions=512", "vocabulary=300"]
    text = ["biographies=0", "statements=0.02", "contexts=0.0"]
    arguments = [
        *(f"model.{setting}" for setting in shape),
        *(f"++{place}.text.{setting}" for place in ("model", "data") for setting in text),
        "trainer.max_steps=4",
        "trainer.max_epochs=1",
        "trainer.limit_val_batches=1",
        "trainer.check_val_every_n_epoch=1",
        "++trainer.enable_progress_bar=false",
        "++trainer.enable_model_summary=false",
        f"hydra.run.dir={tmp_path}/run",
    ]
    assert script("train", "experiment=atlas_model", *arguments).code == 0
    loaded = LanguageModel.load(str(tmp_path / "run/model"))
    assert loaded.blocks == 1
    assert len(loaded.generate(["Lagos is in"], max_new_tokens=2)) == 1
    again = script("train", "experiment=atlas_model", *arguments)
    assert "holds a run already (config.yaml, " in again.error


def write_zsre(path):
    """18 records in zsRE's own format."""
    rows = [
        {
            "input": f"Which country is {name} in?",
            "prediction": "Nigeria",
            "alternatives": ["Sweden"],
            "filtered_rephrases": [f"What is the country of {name}?"],
            "output": [{"answer": "Nigeria", "provenance": [{"title": name}]}],
            "subject": name,
            "src": f"Which country is {name} in?",
            "pred": "Nigeria",
            "rephrase": f"What is the country of {name}?",
            "alt": "Sweden",
            "answers": ["Nigeria"],
            "loc": "nq question: where is Tokyo",
            "loc_ans": "Japan",
            "cond": "Nigeria >> Sweden || Which country is it in?",
        }
        for name in (f"{first}{rest}" for first in "LKMPRS" for rest in ("agos", "ano", "uto"))
    ]
    path.write_text(json.dumps(rows))


def test_another_model_is_trained_on_files_of_records(script, tmp_path, tiny):  # noqa: F811
    """Of zsRE's own format, with a tiny model in a folder; the corpus is not needed."""
    tiny("gpt2").save(tmp_path / "tiny")
    write_zsre(tmp_path / "zsre.json")
    arguments = [a for a in SHORT if not a.startswith("++data")]
    run = script(
        *("train", "editor=mend", "model=pretrained", f"model.path={tmp_path}/tiny", *arguments),
        *("data=zsre", f"data.train={tmp_path}/zsre.json", f"hydra.run.dir={tmp_path}/run"),
    )
    assert run.code == 0, run.err
    assert "18 of 18 records" in run.out
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_an_encoder_decoder_learns_facts_and_an_editor_is_trained_on_it(script, tmp_path):  # noqa: F811
    """The experiment, much smaller; its folder is a model that MEND is then trained for."""
    write_zsre(tmp_path / "zsre.json")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2}
    run = script(
        *("train", "experiment=facts_t5", "~data.text.counterfact", "trainer.max_epochs=2"),
        *(f"model.{name}={size}" for name, size in shape.items()),
        *(f"data.text.zsre.{split}={tmp_path}/zsre.json" for split in ("train", "val", "test")),
        *("++trainer.enable_progress_bar=false", "++trainer.enable_model_summary=false"),
        *("model.vocabulary=300", "trainer.precision=32", f"hydra.run.dir={tmp_path}/facts"),
    )
    assert run.code == 0, run.err
    assert LanguageModel.load(str(tmp_path / "facts/model")).family.name == "t5"
    arguments = [a for a in SHORT if not a.startswith("++data")]
    run = script(
        *("train", "editor=mend", "model=pretrained", f"model.path={tmp_path}/facts/model"),
        *("data=zsre", f"data.train={tmp_path}/zsre.json", f"hydra.run.dir={tmp_path}/run"),
        *arguments,
    )
    assert run.code == 0, run.err
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_help_says_what_can_be_set():
    """In a process of its own, as users start it, and from another folder."""
    command = [sys.executable, str(ROOT / "train.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mend" in done.stdout
    assert "counterfact" in done.stdout


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_on_records_of_all_lengths(tmp_path, strategy):
    """With fsdp each has to make as many passes as the other, or both wait for ever."""
    settings = [*SHORT, f"trainer={strategy}", "trainer.devices=2", f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "editor=mend", *settings, "data.batch_size=5"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
    }
    assert (tmp_path / "results.md").is_file()


@pytest.mark.parametrize("editor", ["serac", "malmen"])
def test_editors_that_ask_as_answers_say_refuse_a_model_in_parts(tmp_path, editor):
    settings = ["trainer=fsdp", "trainer.devices=2", f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", f"editor={editor}", *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert f"{editor} as it is set asks as its answers say: use trainer=ddp" in done.stderr


def test_a_sweep_lies_below_runs(script, tmp_path):  # noqa: F811
    run = script("train", "-m", "editor=mend", *SHORT, "trainer.max_steps=1", "seed=0,1")
    assert run.code == 0, run.err
    [folder] = (tmp_path / "runs/sweep").iterdir()
    for number in "01":
        assert (folder / number / "checkpoints/best.ckpt").is_file()
    assert "TPU" not in run.out + run.err and "eval mode" not in run.err
