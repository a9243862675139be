"""Every family goes the whole way: train an editor, edit, score."""

import json

import lightning as L
import pytest
from small_editors import built

from datamodules.atlas.data import AtlasData
from editors.finetune import FineTune
from editors.locate_then_edit.rome import Rome
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.meta_learning.mend import Mend
from evaluation.protocols.batch import Batch


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
    rome = Rome(any_family, moments=None, contexts=Contexts(["{}"]), search=Search(steps=4))
    goes_the_whole_way(any_family, data, tmp_path, rome=rome)


def test_an_encoder_decoder_trains_edits_and_is_scored(any_encoder_decoder, data, tmp_path):
    goes_the_whole_way(any_encoder_decoder, data, tmp_path)


def goes_the_whole_way(language_model, data, folder, **more):
    """Trains MEND, edits with it, with fine-tuning and with ``more`` editors, and scores them."""
    before = language_model.fingerprint
    mend = built(Mend, language_model, rank=8, edit_lr=1e-2, statistics_edits=6, lr=1e-3)
    trainer = quiet(max_steps=2, limit_val_batches=1, num_sanity_val_steps=0)
    trainer.fit(mend, datamodule=data)
    assert trainer.global_step == 2
    editors = {"mend": mend.eval(), "ft_m": FineTune(language_model, steps=4, lr=1e-2), **more}
    records = data.records("test", limit=3)
    protocol = Batch(editors, records, folder, sizes=[1], data="atlas", generate=["reliability"])
    quiet().test(protocol, verbose=False)
    rows = json.loads((folder / "results.json").read_text())
    assert {row["editor"] for row in rows} == {"unedited", *editors}
    difference = {
        row["editor"]: row["mean"]
        for row in rows
        if (row["probe"], row["scorer"]) == ("reliability", "probability_difference")
    }
    assert difference["ft_m"] > difference["unedited"]  # the new target gained on the old one
    del language_model.__dict__["fingerprint"]
    assert language_model.fingerprint == before
