"""Training under Lightning: what is learned, logged, saved, resumed and refused."""

import copy
import csv

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from callbacks.stopping import Patience
from datamodules.records import Record
from editors.meta_learning.mend import Mend
from editors.meta_learning.outer_loss import outer_losses
from editors.meta_learning.training import HypernetworkTraining, questions
from edits import LowRank, WeightEdit
from models import LanguageModel


def logged(tmp_path):
    with open(tmp_path / "log0" / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights_of(editor):
    return {name: value.clone() for name, value in editor.state_dict().items()}


def assert_equal_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_every_family_trains_and_stays_as_it_was(any_family, records, mend, trainer, data):
    before = LanguageModel(any_family.model, any_family.tokenizer).fingerprint
    editor = mend(any_family)
    at_start = None

    class Start(Callback):
        def on_train_start(self, trainer, module):
            nonlocal at_start
            at_start = weights_of(module)

    trainer(max_steps=2, callbacks=[Start()]).fit(editor, data(records))
    moved = {name for name, value in weights_of(editor).items() if (value != at_start[name]).any()}
    assert moved == {"alpha", *(f"transforms.{n}" for n, _ in editor.transforms.named_parameters())}
    assert LanguageModel(any_family.model, any_family.tokenizer).fingerprint == before
    assert not any_family.model.training


def test_what_is_logged(language_model, records, mend, trainer, data, tmp_path):
    editor = mend(language_model)
    trainer(max_steps=2).fit(editor, data(records))
    rows = logged(tmp_path)
    layer = editor.layers[0]
    names = {
        "train/edit_loss", "train/locality_loss", "train/grad_norm", "train/skipped_steps",
        f"train/edit_lr/{layer}", f"train/update_norm/{layer}",
    }  # fmt: skip
    assert names <= {name for row in rows for name, value in row.items() if value}
    shares = [row for row in rows if row["val/reliability"]]
    for name in ("reliability", "generalization", "locality", "score"):
        assert 0 <= float(shares[-1][f"val/{name}"]) <= 1
    assert float(shares[-1]["val/locality"]) > 0.5  # a barely trained editor changes little


def test_validation_judges_each_edit_by_its_own_probes(
    language_model, records, mend, trainer, data
):
    editor = mend(language_model, edit_lr=0.0)
    editor.collect([record.requests[0] for record in records])
    nothing, *_ = trainer().validate(editor, data(records), verbose=False)
    assert nothing["val/locality"] == 1
    assert nothing["val/reliability"] == nothing["val/generalization"] == 0
    assert nothing["val/score"] == 0


def test_probes_of_a_class_may_be_missing(language_model, records, mend, trainer, data):
    editor = mend(language_model)
    editor.collect([record.requests[0] for record in records])
    bare = [Record(record.id, record.requests) for record in records]
    shares, *_ = trainer().validate(editor, data(bare), verbose=False)
    assert np.isnan(shares["val/locality"]) and np.isnan(shares["val/generalization"])
    trainer(max_steps=1).fit(editor, data(bare))


def test_a_resumed_run_equals_one_that_was_never_stopped(
    language_model, records, mend, trainer, data, tmp_path
):
    def saves():
        return ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)

    def run(epochs, start=None, **settings):
        torch.manual_seed(0)
        editor = mend(language_model, seed=3)
        fit = trainer(max_epochs=epochs, **settings).fit
        fit(editor, data(records), ckpt_path=start, weights_only=True)
        return editor

    straight = run(2)
    first = run(1, callbacks=[saves()], enable_checkpointing=True)
    resumed = run(2, tmp_path / "last.ckpt", callbacks=[saves()], enable_checkpointing=True)
    assert_equal_weights(weights_of(resumed), weights_of(straight))
    assert any((weights_of(first)[n] != w).any() for n, w in weights_of(straight).items())


def test_a_checkpoint_holds_the_editor_alone(
    language_model, records, mend, trainer, data, tmp_path, requests
):
    editor = mend(language_model, layers=[language_model.layer("mlp_out", 1)])
    fit = trainer(max_steps=1)
    fit.fit(editor, data(records))
    fit.save_checkpoint(tmp_path / "editor.ckpt")
    saved = torch.load(tmp_path / "editor.ckpt", weights_only=True)
    assert not any(name.startswith("language_model") for name in saved["state_dict"])
    assert saved["editor"] == "mend"
    assert saved["language_model"]["fingerprint"] == language_model.fingerprint
    loaded = Mend.load_from_checkpoint(
        tmp_path / "editor.ckpt", language_model=language_model, weights_only=True
    )
    assert_equal_weights(weights_of(loaded), weights_of(editor))
    ours, theirs = loaded.edit(requests), editor.edit(requests)
    for layer, update in theirs.updates.items():
        assert torch.equal(ours.updates[layer].dense(), update.dense())


def test_a_checkpoint_of_something_else_is_refused(
    tiny, language_model, records, mend, trainer, data, tmp_path
):
    fit = trainer(max_steps=1)
    fit.fit(mend(language_model), data(records))
    path = tmp_path / "editor.ckpt"
    fit.save_checkpoint(path)
    with pytest.raises(ValueError, match="belongs to the language model 'tiny-gpt2'"):
        Mend.load_from_checkpoint(path, language_model=tiny("gpt2", seed=5), weights_only=True)
    with pytest.raises(ValueError, match=r"other networks; missing: transforms\.0\.nets\.both\.2"):
        Mend.load_from_checkpoint(path, language_model=language_model, blocks=3, weights_only=True)
    with pytest.raises(ValueError, match=r"state of a mend set otherwise: .*size mismatch"):
        Mend.load_from_checkpoint(path, language_model=language_model, rank=2, weights_only=True)
    with pytest.raises(ValueError, match="no checkpoint of mend"):
        mend(language_model).on_load_checkpoint({"state_dict": {}})


def test_step_sizes_have_a_step_size_of_their_own(language_model, mend):
    editor = mend(language_model, lr=1e-6, edit_lr_lr=1e-4)
    optimizer = editor.configure_optimizers()
    nets = [weight.clone() for weight in editor.transforms.parameters()]
    for _ in range(5):
        for weight in editor.parameters():
            weight.grad = torch.ones_like(weight) if weight.requires_grad else None
        optimizer.step()
    torch.testing.assert_close(editor.alpha, torch.full_like(editor.alpha, 1e-4 - 5e-4))
    for before, weight in zip(nets, editor.transforms.parameters(), strict=True):
        torch.testing.assert_close(
            before - weight, torch.full_like(weight, 5e-6), atol=5e-7, rtol=0
        )


def test_step_sizes_warm_up_if_asked(language_model, mend):
    configured = mend(language_model, lr=1e-3, warmup=4).configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    seen = []
    for _ in range(6):
        seen.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert seen == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def losses_and_gradients(editor, records, asked):
    requests = [record.requests[0] for record in records]
    edit = editor.propose(requests, editor.factors(requests), joint=False)
    batch = editor.language_model.encode(
        [p.prompt for p in asked.probes], [p.target for p in asked.probes]
    )
    positions = editor.training_settings.kl_positions
    edit_loss, locality_loss = outer_losses(
        editor.language_model, edit, batch, asked.record, asked.outer, positions
    )
    editor.zero_grad()
    (edit_loss + locality_loss).backward()
    return [p.grad.clone() for p in editor.parameters() if p.grad is not None]


@pytest.mark.parametrize("positions", ["all", "target"])
@pytest.mark.parametrize("outer", ["paraphrase", "both"])
def test_steps_of_one_record_add_up_to_a_step_of_all(exact, records, mend, positions, outer):
    editor = mend(exact, kl_positions=positions, outer=outer, edit_lr=0.5).double()
    editor.collect([record.requests[0] for record in records])
    settings = HypernetworkTraining(outer=outer, locality_probes=2)
    asked = [questions([record], settings, np.random.default_rng(0)) for record in records]
    assert all(len(one.probes) == (4 if outer == "paraphrase" else 5) for one in asked)
    together = questions(records, settings, np.random.default_rng(0))
    single = [
        losses_and_gradients(editor, [record], one)
        for record, one in zip(records, asked, strict=True)
    ]
    for parts, whole in zip(
        zip(*single, strict=True), losses_and_gradients(editor, records, together), strict=True
    ):
        torch.testing.assert_close(sum(parts) / len(records), whole, rtol=1e-9, atol=1e-12)


def test_the_gradient_through_the_edited_model_is_exact(exact, records):
    layer = exact.layer("mlp_out", 1)
    asked = questions(records[:2], HypernetworkTraining(), np.random.default_rng(0))
    batch = exact.encode([p.prompt for p in asked.probes], [p.target for p in asked.probes])

    def loss(left, right):
        edit = WeightEdit({layer: LowRank(left, right)}, "any", exact.fingerprint)
        return sum(outer_losses(exact, edit, batch, asked.record, asked.outer))

    d_in, d_out = exact.shape(layer)
    factors = torch.randn(2, d_in, 1).double(), torch.randn(2, 1, d_out).double()
    assert torch.autograd.gradcheck(loss, [0.3 * f.requires_grad_() for f in factors], eps=1e-5)


def test_draws_are_of_the_kinds_asked_for(records):
    drawn = questions(records, HypernetworkTraining(outer="both"), np.random.default_rng(1))
    kinds = [probe.kind for probe in drawn.probes]
    assert kinds[: drawn.outer] == ["reliability", "generalization"] * 7
    assert kinds[drawn.outer :] == ["unrelated", "neighborhood"] * 7
    assert list(drawn.record[drawn.outer :]) == [n for n in range(7) for _ in range(2)]
    bare = [Record(record.id, record.requests) for record in records]
    assert {
        p.kind for p in questions(bare, HypernetworkTraining(), np.random.default_rng(1)).probes
    } == {"reliability"}


class Spoiled(Callback):
    """Makes the gradient of the second step infinite; notes the step sizes after each step."""

    def __init__(self):
        self.seen = []

    def on_after_backward(self, trainer, module):
        if len(self.seen) == 1:
            module.alpha.grad.fill_(torch.inf)

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append(module.alpha.detach().clone())


def test_a_step_without_a_finite_gradient_is_left_out(language_model, records, mend, trainer, data):
    editor, spoiled = mend(language_model), Spoiled()
    trainer(max_steps=3, callbacks=[spoiled]).fit(editor, data(records, 2))
    assert editor.skipped_steps == 1
    first, second, third = spoiled.seen
    assert torch.equal(first, second) and not torch.equal(second, third)
    assert all(weight.isfinite().all() for weight in editor.state_dict().values())


def test_training_stops_when_no_gradient_is_finite(language_model, records, mend, trainer, data):
    editor = mend(
        language_model, max_skipped=2, edit_lr=1e38
    )  # times a gradient it is no number any more
    with pytest.raises(FloatingPointError, match="not finite in 2 steps in a row"):
        trainer(max_steps=9, num_sanity_val_steps=0).fit(editor, data(records, 2))
    assert editor.skipped_steps == 2


def test_step_sizes_rise_and_fall():
    settings = HypernetworkTraining(warmup=10, decay=0.5)
    assert [settings.rate(step, 100) for step in (0, 9, 50, 75, 100)] == [0.1, 1.0, 1.0, 0.5, 0.0]
    assert HypernetworkTraining().rate(99, 100) == 1.0
    with pytest.raises(ValueError, match="decay must be a share"):
        HypernetworkTraining(decay=2.0)


def test_an_editor_of_a_bfloat16_model_is_trained_in_float32(
    language_model, records, mend, trainer, data
):
    model = copy.deepcopy(language_model.model).to(torch.bfloat16)
    half = LanguageModel(model, language_model.tokenizer, "half")
    editor = mend(half)
    before = LanguageModel(model, language_model.tokenizer).fingerprint
    trainer(max_steps=3).fit(editor, data(records))
    assert {p.dtype for p in editor.parameters() if p.requires_grad} == {torch.float32}
    assert editor.skipped_steps == 0
    assert any((p != 0).any() for name, p in editor.named_parameters() if name.endswith(".a"))
    assert LanguageModel(model, language_model.tokenizer).fingerprint == before


def test_training_stops_when_the_score_stays_and_stays_stopped(
    language_model, records, mend, trainer, data, tmp_path
):
    def fit(start=None):
        editor = mend(language_model, edit_lr=0.0, lr=0.0, edit_lr_lr=0.0)
        stop = Patience(monitor="val/score", mode="max", patience=1)
        one = trainer(max_epochs=9, callbacks=[stop])
        one.fit(editor, data(records), ckpt_path=start, weights_only=True)
        return one

    first = fit()
    assert first.global_step == 4  # epochs of two steps: the second is no better than the first
    first.save_checkpoint(tmp_path / "stopped.ckpt", weights_only=False)
    assert fit(tmp_path / "stopped.ckpt").global_step == 4


def test_steps_left_out_in_a_row_are_counted_across_an_interruption(language_model, mend):
    editor, held = mend(language_model), {"state_dict": {}}
    editor._skipped_in_a_row = 3
    editor.on_save_checkpoint(held)
    other = mend(language_model)
    other.on_load_checkpoint(held)
    assert other._skipped_in_a_row == 3


@pytest.mark.parametrize("method", ["mend", "malmen", "ke"])
def test_a_model_in_float64_has_networks_in_float64(method, exact, records, trainer, data, request):
    editor = request.getfixturevalue(method)(exact)
    trainer(max_steps=1).fit(editor, data(records))
    edit = editor.edit([record.requests[0] for record in records])
    assert {tensor.dtype for tensor in edit.state()[1].values()} == {torch.float64}
