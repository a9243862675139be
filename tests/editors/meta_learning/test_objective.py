"""Training under a bound on the locality loss: multiplier and margin, and what comes of them."""

import csv
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from editors.meta_learning import objective
from editors.meta_learning.ke import Ke
from editors.meta_learning.losses import nll
from editors.meta_learning.objective import Constrained, Weighted
from models import LanguageModel


def weights_of(editor):
    return {name: value.clone() for name, value in editor.state_dict().items()}


@pytest.fixture
def always(monkeypatch):
    """Every validation counts as a success."""
    monkeypatch.setattr(objective, "SUCCESS", -1.0)


# the losses


def test_smoothing_shares_some_of_the_target_s_probability():
    logits, target = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([0])
    logs = logits.log_softmax(1)[0]
    expected = -(0.7 * logs[0] + 0.15 * logs[1] + 0.15 * logs[2])
    assert nll(logits, target, 0.3).item() == pytest.approx(expected.item())
    assert nll(logits, target, 0.0).item() == pytest.approx(-logs[0].item())


def test_weights_are_those_given():
    weighted = Weighted(0.1, 2.0)
    assert weighted(torch.tensor(3.0), torch.tensor(4.0)).item() == pytest.approx(8.3)
    assert not list(weighted.parameters()) and not weighted.state_dict()


def test_what_exceeds_the_margin_is_weighed_by_the_multiplier():
    constrained = Constrained(margin=0.5, floor=0.1)
    constrained.multiplier.data.fill_(3.0)
    loss = constrained(torch.tensor(1.0), torch.tensor(0.7))
    assert loss.item() == pytest.approx(1.0 + 3.0 * 0.2)
    loss.backward()
    assert constrained.multiplier.grad.item() == pytest.approx(0.2)
    constrained.multiplier.data.fill_(-1.0)
    constrained.after_step()
    assert constrained.multiplier.item() == 0


def test_the_margin_shrinks_after_success_down_to_its_floor():
    constrained = Constrained(margin=1.0, floor=0.6)
    seen = []
    for success in (0.9, 0.91, math.nan, 0.95, 1.0):
        constrained.after_validation(torch.tensor(success))
        seen.append(constrained.margin.item())
    assert seen == pytest.approx([1.0, 0.8, 0.8, 0.64, 0.6])


# training


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
@pytest.mark.parametrize(("margin", "rises"), [(0.0, True), (100.0, False)])
def test_the_multiplier_ascends(
    language_model, records, ke, trainer, data, margin, rises, optimiser
):
    editor = ke(
        language_model, margin=margin, margin_floor=0.0, multiplier_lr=1e-3, optimiser=optimiser
    )
    trainer(max_steps=2).fit(editor, data(records))
    assert (editor.objective.multiplier > 1) == rises


def test_the_multiplier_never_falls_below_zero(language_model, records, ke, trainer, data):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(module.objective.multiplier.item())

    editor = ke(language_model, margin=100.0, multiplier_lr=0.7)
    trainer(max_steps=3, callbacks=[Watch()]).fit(editor, data(records))
    assert seen == [pytest.approx(0.3, abs=1e-3), 0, 0]


def test_the_margin_shrinks_with_each_validation_of_a_fit_and_no_other(
    language_model, records, ke, trainer, data, always
):
    editor = ke(language_model, margin=1.0)
    fit = trainer(max_epochs=2)  # after a check before the first
    fit.fit(editor, data(records))
    assert editor.objective.margin.item() == pytest.approx(0.64)
    trainer().validate(editor, data(records), verbose=False)
    assert editor.objective.margin.item() == pytest.approx(0.64)


def test_multiplier_and_margin_are_logged(
    language_model, records, ke, trainer, data, tmp_path, always
):
    editor = ke(language_model, margin=1.0)
    trainer(max_epochs=2).fit(editor, data(records))
    with open(tmp_path / "log0" / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/margin"]]
    assert [float(row["train/margin"]) for row in rows] == pytest.approx([1.0, 1.0, 0.8, 0.8])
    assert len({row["train/multiplier"] for row in rows}) == 4


def test_multiplier_and_margin_are_in_the_checkpoint(
    language_model, records, ke, trainer, data, tmp_path, always, requests
):
    editor = ke(language_model, margin=1.0)
    fit = trainer(max_epochs=1)
    fit.fit(editor, data(records))
    fit.save_checkpoint(tmp_path / "editor.ckpt")
    loaded = Ke.load_from_checkpoint(
        tmp_path / "editor.ckpt", language_model=language_model, weights_only=True
    )
    assert loaded.objective.margin.item() == pytest.approx(0.8)
    assert loaded.objective.multiplier.item() == editor.objective.multiplier.item() != 1
    ours, theirs = loaded.edit_each(requests), editor.edit_each(requests)
    for layer, update in theirs.updates.items():
        assert torch.equal(ours.updates[layer].dense(), update.dense())


def test_a_resumed_run_equals_one_that_was_never_stopped(
    language_model, records, ke, trainer, data, tmp_path, always
):
    def run(epochs, start=None, **settings):
        torch.manual_seed(0)
        editor = ke(language_model, seed=3, margin=1.0, optimiser="rmsprop", multiplier_lr=1e-3)
        fit = trainer(max_epochs=epochs, limit_train_batches=2, **settings).fit
        fit(editor, data(records), ckpt_path=start, weights_only=True)
        return weights_of(editor)

    saves = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
    straight = run(2)
    first = run(1, callbacks=[saves], enable_checkpointing=True)
    fields = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert {"objective.margin", "objective.multiplier"} <= fields.keys()
    saves = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
    resumed = run(2, tmp_path / "last.ckpt", callbacks=[saves], enable_checkpointing=True)
    assert straight["objective.margin"] == pytest.approx(0.64)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert not torch.equal(first["objective.multiplier"], straight["objective.multiplier"])


def test_every_family_trains_and_stays_as_it_was(any_family, records, ke, trainer, data):
    before = LanguageModel(any_family.model, any_family.tokenizer).fingerprint
    editor = ke(any_family, max_scale=50.0)
    at_start = weights_of(editor)
    trainer(max_steps=2).fit(editor, data(records))
    moved = {name for name, value in weights_of(editor).items() if (value != at_start[name]).any()}
    assert moved == {name for name, _ in editor.named_parameters() if "language_model" not in name}
    assert LanguageModel(any_family.model, any_family.tokenizer).fingerprint == before


@pytest.mark.parametrize("objective", ["constrained", "weighted"])
def test_training_lowers_the_loss(language_model, records, ke, trainer, data, tmp_path, objective):
    torch.manual_seed(0)
    editor = ke(
        language_model, objective=objective, max_scale=50.0, lr=1e-2, margin=0.1, locality_probes=2
    )
    settings = {"limit_val_batches": 0, "num_sanity_val_steps": 0}
    trainer(max_steps=30, **settings).fit(editor, data(records, 7))
    with open(tmp_path / "log0" / "metrics.csv", encoding="utf-8") as file:
        losses = [float(row["train/edit_loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.7 * losses[0]
