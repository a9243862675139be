"""A run that was interrupted goes on as if it had never stopped: to the bit, logs included."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
import yaml
from scripts import ROOT, call
from scripts import script as script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from running import targets

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")

SHORT = (
    "trainer.max_steps=-1",
    "+trainer.max_epochs=2",
    "+trainer.limit_train_batches=7",
    "+trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=4",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "+trainer.num_sanity_val_steps=0",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    "callbacks.last.every_n_steps=1",
    "+data.variants=1",
    "data.batch_size=2",
)
EDITORS = {
    "mend": (
        "editor=mend",
        "editor.rank=4",
        "editor.training.statistics=online",
        "editor.training.decay=0.5",
    ),
    "ke": (
        "editor=ke",
        "+editor.lstm_width=4",
        "+editor.condition_width=4",
        "editor.training.warmup=3",
    ),
}


def state(folder):
    """What the last checkpoint of a run holds that a resumed run must hold as well."""
    held = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    best = next(v for k, v in held["callbacks"].items() if k.startswith("Best"))
    stop = next(v for k, v in held["callbacks"].items() if k.startswith("Patience"))
    return {
        **{name: held[name] for name in ("epoch", "global_step", "state_dict", "loops")},
        "optimizer": held["optimizer_states"],
        "rates": held["lr_schedulers"],
        "best": best["best_model_score"],
        "stop": stop,
    }


def assert_same(ours, theirs, at="state"):
    """Equal to the bit, whatever the nesting."""
    assert type(ours) is type(theirs), at
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), at
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), at
        for key, value in ours.items():
            assert_same(value, theirs[key], f"{at}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), at
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{at}[{number}]")
    else:
        assert ours == theirs or (ours != ours and theirs != theirs), at  # nan


def logged(folder):
    """Every number and text in TensorBoard's files but those that measure time.

    Beyond the step at which a run goes on TensorBoard's reader drops the numbers of before, but not
    the texts: of those of one step the last counts.
    """
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "train/edits_per_second"
    }
    texts = {
        tag: sorted({e.step: e.tensor_proto.string_val[0] for e in events.Tensors(tag)}.items())
        for tag in events.Tags()["tensors"]
        if "text_summary" in tag
    }
    return scalars | texts


def train(folder, *arguments):
    return call("train", *arguments, f"hydra.run.dir={folder}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """``straight(editor)``: the folder of a run that was never stopped."""

    @cache
    def run(editor):
        folder = tmp_path_factory.mktemp(editor) / "straight"
        assert train(folder, *EDITORS[editor], *SHORT) == 0
        return folder

    return run


@pytest.mark.parametrize(("editor", "at"), [("mend", 3), ("ke", 10)])
def test_an_interruption_inside_an_epoch_changes_nothing(
    editor, at, straight, tmp_path, monkeypatch
):
    settings, whole = (*EDITORS[editor], *SHORT), straight(editor)
    monkeypatch.setattr(targets, "NAMED", targets.NAMED | {"interruptions.Interruption"})
    broken = [
        "+callbacks.broken._target_=interruptions.Interruption",
        f"+callbacks.broken.at={at}",
    ]
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="interrupted"):  # a bug keeps its trace
        train(folder, *settings, *broken)
    held = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert held["global_step"] == {3: 1, 10: 5}[at]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["callbacks"]["broken"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert train(tmp_path / "more", f"resume={folder}") == 0
    assert_same(state(folder), state(whole))
    assert_same(logged(folder), logged(whole))
    for name in ("results.json", "results.md"):
        assert (folder / name).read_text() == (whole / name).read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["editor.training.lr=0.5"],
            r"editor\.training\.lr: 0\.0004 there, 0\.5 here; a run goes on as it was set",
        ),
        (["editor=ke"], r"editor\._target_: '.*Mend' there, '.*Ke' here"),
        (["seed=4"], "seed: 0 there, 4 here"),
        (["experiment=atlas_model"], "there, .* here"),
    ],
)
def test_a_run_of_another_configuration_is_not_gone_on_with(
    arguments,
    error,
    straight,
    script,
    tmp_path,
):
    whole = straight("mend")
    run = script("train", f"resume={whole}", *arguments, f"hydra.run.dir={tmp_path}/more")
    assert re.search(error, run.error), run.error


def test_a_folder_without_a_checkpoint_is_named(straight, script, tmp_path):
    whole = straight("mend")
    (tmp_path / "run").mkdir()
    text = (whole / "config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(text)
    run = script("train", f"resume={tmp_path}/run", f"hydra.run.dir={tmp_path}/more")
    assert re.search(r"run/checkpoints/last.ckpt: there is no such checkpoint", run.error)
    (tmp_path / "run/config.yaml").write_text("editors: [rome]")
    run = script("train", f"resume={tmp_path}/run", f"hydra.run.dir={tmp_path}/more")
    assert "this is no run of train.py" in run.error


def test_a_finished_run_can_be_made_longer(straight, script, tmp_path):
    """In a copy of its folder, which is what is written to."""
    whole = straight("mend")
    before = (whole / "results.json").stat().st_mtime_ns
    shutil.copytree(whole, tmp_path / "copy")
    more = ["+trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/more"]
    assert script("train", f"resume={tmp_path}/copy", *more).code == 0
    assert state(tmp_path / "copy")["global_step"] == 12
    assert state(whole)["global_step"] == 8
    assert (whole / "results.json").stat().st_mtime_ns == before
    steps = [step for step, _ in logged(tmp_path / "copy")["train/loss"]]
    assert steps == list(range(12))


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    """SIGKILL at random moments after something was saved, each time in a process of its own."""
    length = ["+trainer.max_epochs=20", "trainer.val_check_interval=16"]
    given = [s for s in SHORT if "max_epochs" not in s and "val_check" not in s]
    settings = [*EDITORS["mend"], *given, *length]
    moments = random.Random(0)

    def start(*arguments):
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **quiet)

    assert start(*settings, f"hydra.run.dir={tmp_path}/whole").wait() == 0
    folder, kills = tmp_path / "run", 0
    last = folder / "checkpoints/last.ckpt"
    arguments = [*settings, f"hydra.run.dir={folder}"]

    def written():
        return last.stat().st_mtime_ns if last.exists() else 0

    while kills < 10:
        before = written()
        process = start(*arguments)
        while process.poll() is None and before == written():
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None
        process.kill()
        process.wait()
        kills += 1
        arguments = [f"resume={folder}", f"hydra.run.dir={tmp_path}/more"]
    assert start(*arguments).wait() == 0
    assert_same(state(folder), state(tmp_path / "whole"))
    assert_same(logged(folder), logged(tmp_path / "whole"))
