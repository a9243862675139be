"""Training in which several requests make one edit together."""

import csv

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules.records import Probe, Record, Request
from editors.meta_learning.training import HypernetworkTraining, questions


def test_batches_take_the_sizes_in_turn():
    settings = HypernetworkTraining(joint_edits=(1, 4, 2))
    assert [settings.joint(index, 5) for index in range(5)] == [1, 4, 2, 1, 4]
    assert settings.joint(4, 3) == 4  # the rest of an epoch may be less
    with pytest.raises(
        ValueError, match=r"joint_edits=4: a batch has only 3 records; set batch_si"
    ):
        settings.joint(0, 3)


@pytest.mark.parametrize("method", ["mend", "malmen", "ke"])
def test_one_edit_of_a_batch_is_that_of_its_requests(method, exact, records, request):
    editor = request.getfixturevalue(method)(exact).double()
    requests = [record.requests[0] for record in records]
    editor.collect(requests)
    factors = editor.factors(requests)
    parts = [requests[start : start + 3] for start in (0, 3, 6)]
    with torch.no_grad():
        found = editor._of_batch(parts, factors, together=True)
        groups = [editor.edit(part) for part in parts]
    assert len(found) == 3
    for number, group in enumerate(groups):
        for layer, update in group.updates.items():
            ours = found.select([number]).updates[layer].dense()
            torch.testing.assert_close(ours, update.dense(), rtol=1e-9, atol=1e-12)


class Weights(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self.seen.append({n: p.clone() for n, p in module.named_parameters() if p.requires_grad})


@pytest.mark.parametrize("method", ["mend", "malmen"])
def test_training_of_joint_edits(method, language_model, records, trainer, data, tmp_path, request):
    build, weights = request.getfixturevalue(method), Weights()
    editor = build(language_model, joint_edits=[1, 4, 2], questions_per_batch=5)
    fit = trainer(max_steps=5, callbacks=[weights], val_check_interval=1, num_sanity_val_steps=0)
    fit.fit(editor, data(records, 4))  # batches of 4 and of 3 records
    assert all(
        any(not torch.equal(weight, after[name]) for name, weight in before.items())
        for before, after in zip(weights.seen, weights.seen[1:], strict=False)
    )
    assert editor.skipped_steps == 0
    with open(tmp_path / "log0" / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/joint_reliability"]]
    assert len(rows) == 5
    last = {name: float(value) for name, value in rows[-1].items() if name.startswith("val/")}
    kinds = ("reliability", "generalization", "unrelated", "neighborhood")
    scores = []
    for prefix in ("val/", "val/joint_"):
        shares = np.array([last[prefix + kind] for kind in kinds])
        with np.errstate(divide="ignore"):
            scores.append(1 / np.nanmean(1 / shares))
    with np.errstate(divide="ignore"):
        expected = 1 / np.mean(1 / np.array(scores))
    assert last["val/score"] == pytest.approx(expected)


def test_a_batch_smaller_than_its_edit_is_refused(language_model, records, malmen, trainer, data):
    editor = malmen(language_model, joint_edits=[1, 5])
    with pytest.raises(ValueError, match="joint_edits=5: a batch has only 4 records"):
        trainer(max_steps=1).fit(editor, data(records, 4))


def test_a_step_of_a_joint_edit_that_is_not_finite_is_left_out(
    language_model, records, malmen, trainer, data
):
    editor = malmen(language_model, joint_edits=[4], max_skipped=2)
    editor.theta.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite in 2 steps in a row"):
        trainer(max_steps=9, num_sanity_val_steps=0).fit(editor, data(records, 4))
    assert editor.skipped_steps == 2


# questions that another request changes


def record(subject, country, target, *probes, known=True):
    request = Request(f"{subject} is in", subject, target, country if known else None)
    return Record(subject, (request,), tuple(Probe(kind, *rest) for kind, *rest in probes))


def test_they_are_asked_where_that_request_is_in_another_edit():
    lagos = record("Lagos", "Nigeria", "Peru")
    paris = record("Paris", "France", "Japan", ("unrelated", "Lagos is in", "Nigeria"))
    settings = HypernetworkTraining()
    for joint, count in ((1, 3), (2, 2)):
        drawn = questions([lagos, paris], settings, np.random.default_rng(0), joint)
        assert len(drawn.probes) == count
