"""Every family goes the whole way: train an editor, edit, score."""

import json

import lightning as L
import pytest

from datamodules.atlas.data import AtlasData
from editors.finetune import FineTune
from editors.locate_then_edit.rome import Rome
from editors.meta_learning.mend import Mend
from evaluation.single import Single


@pytest.fixture(scope="module")
def data():
    return AtlasData(batch_size=3, variants=1)


def quiet(**options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        **options,
    )


def test_a_family_trains_edits_and_is_scored(any_family, data, tmp_path):
    before = any_family.fingerprint
    mend = Mend(any_family, rank=8, edit_lr=1e-2, statistics_edits=6, lr=1e-3)
    trainer = quiet(max_steps=2, limit_val_batches=1, num_sanity_val_steps=0)
    trainer.fit(mend, datamodule=data)
    assert trainer.global_step == 2
    editors = {
        "mend": mend.eval(),
        "rome": Rome(any_family, covariance=False, contexts=["{}"], steps=4),
        "ft_m": FineTune(any_family, steps=4, lr=1e-2),
    }
    records = data.records("test", limit=3)
    protocol = Single(editors, records, tmp_path, data="atlas", generate=["reliability"])
    quiet().test(protocol, verbose=False)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["editor"] for row in rows} == {"unedited", *editors}
    nll = {
        row["editor"]: row["mean"]
        for row in rows
        if (row["probe"], row["scorer"]) == ("reliability", "probability_difference")
    }
    assert nll["ft_m"] > nll["unedited"]  # the new target gained on the old one
    del any_family.__dict__["fingerprint"]
    assert any_family.fingerprint == before
