import json
import logging
import os
import time
from dataclasses import asdict

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from datamodules.atlas.data import AtlasData
from datamodules.records import Request
from editors import checkpoints
from editors.checkpoints import belongs_to, checkpoint_of, chosen, load_trained, ready_made
from editors.memory.serac import Serac
from editors.meta_learning.ke import Ke
from editors.meta_learning.malmen import Malmen
from editors.meta_learning.mend import Mend
from editors.meta_learning.training import HypernetworkTraining
from models import atlas
from scoring.known import says


class Other(Mend.__mro__[1]):
    """Another editor that is trained."""

    def updates(self, requests, factors, joint, after):
        raise NotImplementedError


@pytest.fixture(scope="module")
def settings(language_model):
    return {"layers": [language_model.layer("mlp_out", 1)], "rank": 4}


@pytest.fixture
def write(settings):
    """``write(path, language_model)``: the checkpoint of an untrained editor."""

    def write(path, language_model, edit_lr=1e-4, editor=Mend):
        own = settings if editor is Mend else {"layers": settings["layers"]}
        module = editor(language_model, **own, **({"edit_lr": edit_lr} if editor is Mend else {}))
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
        )
        trainer.strategy.connect(module)
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(path, weights_only=True)
        return path

    return write


def step_size(editor):
    return float(editor.edit_lrs()["edit_lr"].detach()[0])


def at(path, seconds):
    """Sets when a file or folder was written last."""
    moment = time.time() + seconds
    os.utime(path, (moment, moment))


def test_a_checkpoint_says_whose_it_is(write, language_model, tmp_path):
    path = write(tmp_path / "a.ckpt", language_model)
    assert belongs_to(path) == ("mend", language_model.fingerprint)


def test_the_named_checkpoint_is_loaded(write, language_model, tmp_path, caplog):
    path = write(tmp_path / "a.ckpt", language_model, 0.25)
    with caplog.at_level(logging.INFO):
        editor = load_trained(Mend, language_model, path)
    assert step_size(editor) == 0.25
    assert editor.language_model is language_model
    assert not editor.training
    assert f"mend: {path}" in caplog.text


def test_without_a_name_it_is_the_newest_that_fits(write, tiny, language_model, tmp_path):
    old = write(tmp_path / "mend/1/checkpoints/best.ckpt", language_model, 0.1)
    new = write(tmp_path / "mend/2/checkpoints/best.ckpt", language_model, 0.2)
    other = write(tmp_path / "mend/3/checkpoints/best.ckpt", tiny("gpt2", seed=1))
    third = write(tmp_path / "other/4/checkpoints/best.ckpt", language_model, editor=Other)
    for place, path in enumerate((old, new, other, third)):
        at(path.parent, place - 10)
    assert chosen(Mend, language_model, tmp_path) == new
    found = checkpoint_of(Mend, "mend", language_model, runs=tmp_path)
    editor = load_trained(Mend, language_model, found)
    assert step_size(editor) == pytest.approx(0.2)
    assert chosen(Mend, tiny("gpt2", seed=1), tmp_path) == other
    assert chosen(Other, language_model, tmp_path) == third


@pytest.mark.parametrize(
    ("trial", "taken"),
    [
        ([{"val/score": 0.4, "val/count": 256}], "run"),  # of a few steps
        ([{"val/score": 1.0, "val/count": 8}], "run"),  # judged on a few records
        ([{"val/score": float("nan"), "val/count": 256}], "run"),
        ([{"val/score": 0.9, "val/count": 256}], "trial"),
        ([{"val/score": 0.8, "val/count": 256}], "trial"),  # no worse, and newer
        (None, "run"),
        ([], "run"),
        ("no results", "run"),
        ([{"val/score": "good"}], "run"),
    ],
)
def test_a_trial_does_not_take_the_place_of_what_is_better(
    trial, taken, write, language_model, tmp_path
):
    for name, results in (("run", [{"val/score": 0.8, "val/count": 256}]), ("trial", trial)):
        write(tmp_path / name / "checkpoints/best.ckpt", language_model)
        if results is not None:
            (tmp_path / name / "results.json").write_text(json.dumps(results))
    at(tmp_path / "run/checkpoints", -10)
    assert chosen(Mend, language_model, tmp_path).parts[-3] == taken
    (tmp_path / "run/chosen").touch()
    assert chosen(Mend, language_model, tmp_path).parts[-3] == "run"
    (tmp_path / "run/chosen").rename(tmp_path / "trial/chosen")
    assert chosen(Mend, language_model, tmp_path).parts[-3] == "trial"


def test_what_was_taken_says_what_it_reached(write, language_model, tmp_path):
    path = write(tmp_path / "run/checkpoints/best.ckpt", language_model)
    assert load_trained(Mend, language_model, path).origin == str(path)
    (tmp_path / "run/results.json").write_text('[{"val/score": 0.75, "val/count": 1024}]')
    origin = load_trained(Mend, language_model, path).origin
    assert origin == f"{path} · val/score 0.75 on 1,024 records"


def test_the_best_of_a_run_goes_before_its_last(write, language_model, tmp_path):
    best = write(tmp_path / "run/checkpoints/best.ckpt", language_model)
    last = write(tmp_path / "run/checkpoints/last.ckpt", language_model)
    at(best, -100)
    at(last, 0)
    assert chosen(Mend, language_model, tmp_path) == best


def test_without_any_it_says_what_to_run(language_model, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"no checkpoint of mend .* train one with: python train.py editor=mend",
    ):
        checkpoint_of(Mend, "mend", language_model, runs=tmp_path / "runs")


def test_ready_made_editors_come_after_those_of_runs(write, folder, language_model, tiny, tmp_path,
                                                     monkeypatch, caplog):  # fmt: skip
    assert ready_made(Mend, language_model) is None  # none ships for this model
    shipped, _ = folder
    monkeypatch.setattr(checkpoints, "READY_MADE", tmp_path)
    (tmp_path / "tiny").mkdir()
    shipped = shipped.rename(tmp_path / "tiny/mend")
    (shipped / "results.json").write_text('[{"val/score": 0.75, "val/count": 1024}]')
    assert checkpoint_of(Mend, "mend", language_model, runs=tmp_path / "runs") == shipped
    with caplog.at_level(logging.INFO):
        editor = load_trained(Mend, language_model, shipped)
    assert editor.origin == f"{shipped} · ready-made · val/score 0.75 on 1,024 records"
    assert f"mend: {editor.origin}" in caplog.text
    assert ready_made(Mend, tiny("gpt2", seed=1)) is None
    assert ready_made(Other, language_model) is None
    own = write(tmp_path / "runs/mend/1/checkpoints/best.ckpt", language_model)
    assert checkpoint_of(Mend, "mend", language_model, runs=tmp_path / "runs") == own


@pytest.mark.parametrize("cls", [Mend, Ke, Malmen, Serac])
def test_what_ships_for_atlas_is_what_its_card_says(cls):
    model = atlas.language_model()
    folder = checkpoint_of(cls, cls.name, model, runs="nowhere")
    editor = load_trained(cls, model, folder)
    [results] = json.loads((folder / "results.json").read_text())
    assert f"| val/score | {results['val/score']:.4g} |" in (folder / "README.md").read_text()
    assert results["val/score"] > 0.85 and editor.training_cost["seconds"] > 10
    records = AtlasData(limit=8).records("val")
    made = editor.make([record.requests for record in records])
    requests = [request for record in records for request in record.requests]
    assert sum(says(made.edited(model), requests, rows=range(8))) >= 6


def test_a_file_that_is_not_there_is_named(language_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt=.*gone.ckpt: there is no such file"):
        load_trained(Mend, language_model, tmp_path / "gone.ckpt")


def test_another_model_s_checkpoint_is_refused(write, tiny, language_model, tmp_path):
    path = write(tmp_path / "a.ckpt", tiny("gpt2", seed=1))
    with pytest.raises(ValueError, match=r"a.ckpt holds 'mend' for the model with fingerprint"):
        load_trained(Mend, language_model, path)


def test_another_editor_s_checkpoint_is_refused(write, language_model, tmp_path):
    path = write(tmp_path / "a.ckpt", language_model, editor=Other)
    with pytest.raises(ValueError, match=r"a.ckpt holds 'other' .* wanted 'mend'"):
        load_trained(Mend, language_model, path)


@pytest.mark.parametrize("content", ["nothing", "text", "half", "tensors", "list"])
def test_what_is_no_checkpoint_is_passed_over_and_refused_by_name(
    content, write, language_model, tmp_path
):
    path = tmp_path / "run/a.ckpt"
    path.parent.mkdir()
    if content == "half":
        whole = write(tmp_path / "whole", language_model).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "tensors":
        torch.save({"weight": torch.ones(2)}, path)
    elif content == "list":
        torch.save([torch.ones(2)], path)
    else:
        path.write_text("" if content == "nothing" else "no checkpoint")
    assert belongs_to(path) is None
    assert chosen(Mend, language_model, tmp_path) is None
    with pytest.raises(ValueError, match=r"a.ckpt is no checkpoint of an editor"):
        load_trained(Mend, language_model, path)


def test_a_damaged_one_does_not_hide_the_others(write, language_model, tmp_path, caplog):
    """Whatever byte of it is wrong."""
    good = write(tmp_path / "good/checkpoints/best.ckpt", language_model)
    (tmp_path / "good/results.json").write_text('[{"val/score": 0.75}]')
    bad = tmp_path / "bad/checkpoints/best.ckpt"
    bad.parent.mkdir(parents=True)
    (tmp_path / "bad/chosen").touch()
    whole = good.read_bytes()
    at(good.parent, -10)
    for place in torch.randint(len(whole), (40,)).tolist():
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert chosen(Mend, language_model, tmp_path) in (good, bad)
    bad.write_bytes(b"nothing")
    assert chosen(Mend, language_model, tmp_path) == good
    assert f"passed over, no checkpoint or a damaged one: {bad}" in caplog.text
    with caplog.at_level(logging.INFO):
        load_trained(Mend, language_model, good)
    assert f"mend: {good} · val/score 0.75" in caplog.text


def test_code_in_a_checkpoint_is_not_run(language_model, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    path = tmp_path / "a.ckpt"
    torch.save({"editor": "mend", "language_model": Trap()}, path)
    with pytest.raises(ValueError, match="is no checkpoint of an editor"):
        load_trained(Mend, language_model, path)
    assert not (tmp_path / "trapped").exists()


# folders


def test_parameters_may_be_kept_in_half_precision(folder, language_model, tmp_path):
    _, editor = folder
    editor.training_cost = {"seconds": 9.0}
    editor.save_pretrained(tmp_path / "half", torch.float16)
    stored = load_file(tmp_path / "half/model.safetensors")
    parameters = dict(editor.named_parameters())
    for name, value in editor.state_dict().items():
        assert stored[name].dtype == (torch.float16 if name in parameters else value.dtype)
    loaded = Mend.from_pretrained(tmp_path / "half", language_model)
    assert loaded.training_cost == {"seconds": 9.0}
    for name, value in loaded.state_dict().items():
        assert value.dtype == editor.state_dict()[name].dtype
        torch.testing.assert_close(value, editor.state_dict()[name], rtol=1e-3, atol=1e-6)


@pytest.fixture
def folder(settings, language_model, tmp_path):
    """The folder of an untrained editor, and the editor."""
    editor = Mend(language_model, edit_lr=0.5, **settings)
    editor.save_pretrained(tmp_path / "editor")
    return tmp_path / "editor", editor


def test_a_folder_holds_the_editor_alone_and_gives_it_back(folder, language_model):
    path, editor = folder
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(path / "model.safetensors").keys() == editor.state_dict().keys()
    for loaded in (
        Mend.from_pretrained(path, language_model),
        load_trained(Mend, language_model, path),
    ):
        assert loaded.hparams == editor.hparams
        assert not loaded.training
        for name, value in editor.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)


def test_a_folder_is_for_its_language_model_unless_told_otherwise(folder, tiny):
    path, editor = folder
    other = tiny("gpt2", seed=1)
    with pytest.raises(ValueError, match=r"was trained for the language model 'tiny-gpt2' with"):
        Mend.from_pretrained(path, other)
    taken = Mend.from_pretrained(path, other, any_model=True)
    assert taken.language_model is other
    assert torch.equal(taken.alpha, editor.alpha)
    with pytest.raises(ValueError, match="holds 'mend', not 'other'"):
        Other.from_pretrained(path, other)


def test_settings_are_plain_values_in_files_and_bundles_in_the_editor(
    write, language_model, tmp_path
):
    path = write(tmp_path / "a.ckpt", language_model)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]["training"]
    lists = {"locality_kinds": ["unrelated", "neighborhood"], "joint_edits": [1]}
    assert stored == asdict(HypernetworkTraining()) | lists
    loaded = Mend.load_from_checkpoint(path, language_model=language_model, weights_only=True)
    assert isinstance(loaded.training_settings, HypernetworkTraining)
    assert loaded.training_settings == HypernetworkTraining(**stored)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lr": 1.0}, "has settings of another mend: lr: Mend has no such setting"),
        (
            {"training": {"_target_": "os.mkdir"}},
            r"training\._target_=os.mkdir: expected nothing of",
        ),
        ({"training": None}, "training=null: expected HypernetworkTraining"),
        ({"rank": "4"}, "rank=4: expected a whole number"),
        ({"training": {"lr": "fast"}}, r"training\.lr=fast: expected a number"),
    ],
)
def test_settings_that_an_editor_lacks_are_refused(change, what, folder, language_model):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    config["settings"] |= change
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=what):
        Mend.from_pretrained(path, language_model)


def test_an_identity_is_class_settings_and_what_was_learned(folder, language_model):
    path, editor = folder
    request = Request("Lagos is in", "Lagos", "Sweden")
    editor.collect([request])
    own = editor.identity()
    assert {"class": "Mend", "rank": 4, "edit_lr": 0.5, "sign": "descent"}.items() <= own.items()
    assert own["training"]["lr"] == HypernetworkTraining().lr
    assert json.loads(json.dumps(own)) == own
    editor.edit([request])
    editor.prepare()
    assert editor.identity() == own
    loaded = Mend.from_pretrained(path, language_model).identity()
    assert loaded.pop("tensors") != own.pop("tensors")  # without the statistics
    assert loaded == own


def test_what_is_no_folder_of_an_editor_is_refused(folder, language_model, tmp_path):
    path, editor = folder
    with pytest.raises(ValueError, match="holds something already; name another folder"):
        editor.save_pretrained(path)
    with pytest.raises(FileNotFoundError, match="no trained editor 'gone/editor': there is no"):
        Mend.from_pretrained("gone/editor", language_model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is not there"):
        Mend.from_pretrained(tmp_path / "empty", language_model)
    (path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no trained editor: config.json.editor is missing"):
        Mend.from_pretrained(path, language_model)
    (path / "model.safetensors").write_text("nothing")
    with pytest.raises(ValueError, match="is no trained editor"):
        Mend.from_pretrained(path, language_model)
