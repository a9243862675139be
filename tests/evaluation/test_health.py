"""Perplexity and norms say whether a model still works."""

from math import exp

import pytest
import torch
from fake_editors import Noise, make_records

from edits.edit import NOTHING
from edits.weights import Dense, WeightEdit
from evaluation.report import health

TEXTS = [
    "Tokyo is the capital of Japan.",
    "Lagos",
    "Gothenburg is a city in Sweden.",
    "Paris is in France.",
]
REQUESTS = [record.requests[0] for record in make_records(1)]


def edit_of(language_model, **changes):
    layer = language_model.layer("mlp_out", 1)
    weight = torch.full((1, *language_model.shape(layer)), changes.pop("value", 0.0))
    return WeightEdit({layer: Dense(weight)}, "test", language_model.fingerprint)


def test_perplexity_is_of_all_tokens_behind_the_first_words(language_model):
    found = health.perplexity(NOTHING.edited(language_model), TEXTS)
    pairs = [text.split(None, 1) for text in TEXTS if " " in text]
    nll, tokens = 0.0, 0
    for first, rest in pairs:
        batch = language_model.encode([first], [rest])
        with torch.no_grad():
            logits, ids, _ = language_model.target_logits(batch)
        nll += float(torch.nn.functional.cross_entropy(logits, ids, reduction="sum"))
        tokens += len(ids)
    assert found["mean"] == pytest.approx(exp(nll / tokens), rel=1e-5)
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["count"] == len(pairs) == 3


def test_an_edit_of_nothing_changes_nothing(language_model):
    own = health.of(NOTHING.edited(language_model), TEXTS)
    found = health.of(edit_of(language_model).edited(language_model), TEXTS)
    assert own.keys() == {"perplexity"}
    assert found["perplexity"] == own["perplexity"]
    assert found["update_norm"]["mean"] == found["relative_norm"]["mean"] == 0


def test_norms_are_those_of_the_weights(language_model):
    layer = language_model.layer("mlp_out", 1)
    edit = edit_of(language_model, value=0.5)
    found = health.of(edit.edited(language_model), [])
    d_in, d_out = language_model.shape(layer)
    assert found.keys() == {"update_norm", "relative_norm"}
    assert found["update_norm"]["mean"] == pytest.approx(0.5 * (d_in * d_out) ** 0.5)
    own = float(language_model.module(layer).weight.norm())
    assert found["relative_norm"]["mean"] == pytest.approx(found["update_norm"]["mean"] / own)


def test_the_edited_model_is_the_one_that_is_asked(language_model):
    edit = Noise(language_model, strength=20.0).edit_each(REQUESTS)
    found = health.of(edit.edited(language_model), TEXTS)["perplexity"]
    assert found == health.perplexity(edit.edited(language_model), TEXTS)
    assert found["mean"] != health.perplexity(NOTHING.edited(language_model), TEXTS)["mean"]


def test_a_diverged_model_has_a_perplexity_too(language_model):
    found = health.of(edit_of(language_model, value=float("nan")).edited(language_model), TEXTS)
    assert found["perplexity"]["mean"] == exp(health.LARGEST)


def test_an_edit_that_scores_nothing_has_no_perplexity(language_model):
    class Speech(type(NOTHING)):
        scores = False

        def size(self, language_model):
            return {"entries": 3.0}

    found = health.of(Speech().edited(language_model), TEXTS)
    assert found == {"entries": {"mean": 3.0, "low": 3.0, "high": 3.0, "count": 1}}


def test_texts_of_one_word_have_none(language_model):
    with pytest.raises(ValueError, match="no text of more than one word"):
        health.perplexity(NOTHING.edited(language_model), ["Lagos"])
