"""One edit and one outer step of MEND give the numbers of the authors' code."""

import json

import pytest
import torch
from golden import assert_close, batch_of, read
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from editors.meta_learning.factors import factors
from editors.meta_learning.mend import Mend
from editors.meta_learning.outer_loss import outer_losses
from editors.meta_learning.training import HypernetworkTraining
from models import Batch, LanguageModel

TOLERANCE = {"fp32": 1e-5, "fp64": 1e-12}


@pytest.fixture(scope="module", params=["fp32", "fp64"])
def case(request, golden):
    """The tensors of a file, its settings, a Mend with its weights, and the tolerance."""
    folder = golden / "trained_editors"
    tensors, settings = read(golden, f"mend_full_edit_{request.param}")
    vocabulary = Tokenizer(models.WordLevel({"end": 0}, unk_token="end"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="end")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "base_gpt2", dtype=torch.float32, attn_implementation="eager"
    )
    model = model.double() if request.param == "fp64" else model
    editor = Mend(
        LanguageModel(model, tokenizer),
        layers=json.loads(settings["layers"]),
        rank=int(settings["rank"]),
        sign="official",
        training=HypernetworkTraining(statistics="online"),
    ).to(model.dtype)
    fill(editor, tensors)
    return tensors, editor, TOLERANCE[request.param]


def fill(editor, tensors):
    with torch.no_grad():
        editor.alpha.copy_(tensors["weights/alpha"])
        for layer in editor.layers:
            transform = editor.transforms.of(layer)
            prefix = "weights/{}x{}".format(*editor.language_model.shape(layer))
            for number, block in enumerate(transform.nets["both"]):
                for ours, theirs in NAMES.items():
                    getattr(block, ours).copy_(tensors[f"{prefix}.block{number}.{theirs}"])
            statistics = {"u": transform.key_statistics, "delta": transform.delta_statistics}
            for side, ours in statistics.items():
                ours.count.copy_(tensors[f"{prefix}.count"][0].long())
                ours.mean.copy_(tensors[f"{prefix}.{side}_mean"])
                ours.m2.copy_(tensors[f"{prefix}.{side}_m2"])


NAMES = {"a": "A", "b": "B", "bias": "bias", "scale": "film_scale", "shift": "film_shift"}


def proposed(tensors, editor):
    batch = batch_of(tensors, "edit")
    rows = factors(editor.language_model, editor.layers, batch)
    return rows, editor.propose([], rows, joint=False)


def test_factors_updates_and_edited_logits(case):
    tensors, editor, tolerance = case
    model = editor.language_model
    with torch.no_grad():
        rows, edit = proposed(tensors, editor)
    for layer, alpha in zip(editor.layers, editor.alpha, strict=True):
        expected = {k.removeprefix(f"expected/{layer}."): v for k, v in tensors.items()}
        kept = expected["kept_rows"]
        assert_close(rows[layer].keys, expected["u"][kept], tolerance)
        assert_close(rows[layer].deltas, expected["delta"][kept], tolerance)
        update = edit.updates[layer]
        assert_close(update.left[0].T, expected["u_tilde"], tolerance)
        assert_close(update.right[0] / alpha.detach(), expected["delta_tilde"], tolerance)
        assert_close(update.dense()[0], expected["weight_update"], tolerance)
    query = batch_of(tensors, "query")
    with torch.no_grad():
        assert_close(model.head(model.hidden(query)), tensors["expected/logits_before"], tolerance)
        with edit.hooks(model):
            after = model.head(model.hidden(query))
    assert_close(after, tensors["expected/logits_after"], tolerance)


def test_outer_losses_and_their_gradients(case):
    tensors, editor, tolerance = case
    _, edit = proposed(tensors, editor)
    rephrase, locality = batch_of(tensors, "rephrase", 8), batch_of(tensors, "locality", 8)
    both = Batch(
        *(
            torch.cat([getattr(x, name) for x in (rephrase, locality)])
            for name in ("input_ids", "attention_mask", "labels")
        )
    )
    edit_loss, locality_loss = outer_losses(
        editor.language_model, edit, both, owner=[0, 0], outer=1
    )
    settings = HypernetworkTraining()
    total = settings.edit_weight * edit_loss + settings.locality_weight * locality_loss
    assert_close(edit_loss, tensors["expected/outer_edit_nll"], tolerance)
    assert_close(locality_loss, tensors["expected/outer_locality_kl"], tolerance)
    assert_close(total, tensors["expected/outer_total"], tolerance)
    editor.zero_grad()
    total.backward()
    assert_close(editor.alpha.grad, tensors["expected/outer_gradient.alpha"], tolerance)
    for layer in editor.layers:
        blocks = editor.transforms.of(layer).nets["both"]
        prefix = "expected/outer_gradient.{}x{}".format(*editor.language_model.shape(layer))
        for number, block in enumerate(blocks):
            for ours, theirs in NAMES.items():
                expected = tensors[f"{prefix}.block{number}.{theirs}"]
                assert_close(getattr(block, ours).grad, expected, tolerance)
