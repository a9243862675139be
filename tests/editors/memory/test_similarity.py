"""SERAC's similarity and loss: the authors' numbers, and what must hold whatever the numbers."""

import math

import pytest
import torch
from golden import assert_close, read
from transformers import AutoModel, AutoModelForSequenceClassification

from editors.memory.encoder import Encoder, PairTexts, copied_body
from editors.memory.scope import CrossAttentionScope, EmbeddingScope
from editors.memory.similarity import Distance, balanced_bce, log_similarity
from edits.routing import THRESHOLD, Entry
from models.encoding import Batch

SIMILARITIES = ("", "_cosine", "_two_heads_bounded", "_unsquared")


def distance(settings):
    flags = {"bound": "bound_embeds", "cosine": "cosine", "squared": "square"}
    found = {name: settings[key] == "true" for name, key in flags.items()}
    return Distance(**found, scale=float(settings["scale"]), heads=int(settings["heads"]))


class Given:
    """A tokenizer whose token ids are read from a file."""

    sep_token, pad_token_id = "[SEP]", 0

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, texts, verbose):
        return {"input_ids": [self.ids[text] for text in texts]}


def ids_of(tensors, name):
    ids, mask = (tensors[f"inputs/{name}_{part}"] for part in ("input_ids", "attention_mask"))
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [*((f"{kind}_fp32", 5e-6) for kind in SIMILARITIES), ("_fp64", 1e-12)],
)
def test_similarities_are_the_authors(golden, name, tolerance):
    tensors, settings = read(golden, f"serac_similarity{name}")
    model = AutoModel.from_pretrained(
        golden / "trained_editors/serac_distilbert", dtype=torch.float32
    )
    dtype = tensors["expected/log_similarity"].dtype
    texts = {}
    for kind in ("query", "key"):
        texts |= {f"{kind} {n}": ids for n, ids in enumerate(ids_of(tensors, kind))}
    encoder = Encoder(model.to(dtype), Given(texts), 40, "given", pooling="first")
    scope = EmbeddingScope(encoder, "prompt", distance(settings))
    queries = [text for text in texts if text.startswith("query")]
    entries = [Entry(text, "") for text in texts if text.startswith("key")]
    with torch.no_grad():
        embedded, keys = scope.queries(queries), scope.keys(entries)
        found = scope.log_similarity(queries, embedded, entries, keys)
        every = torch.cartesian_prod(torch.arange(len(queries)), torch.arange(len(entries)))
        of_pairs = scope.of_pairs(queries, entries, every)
    assert_close(embedded, tensors["expected/query_embedding"], tolerance)
    assert_close(keys, tensors["expected/key_embedding"], tolerance)
    assert_close(found, tensors["expected/log_similarity"], tolerance)
    assert_close(of_pairs, tensors["expected/log_similarity"].flatten(), tolerance)
    best, at = found.exp().max(1)
    assert torch.equal(at, tensors["expected/best_edit"])
    assert torch.equal(best > THRESHOLD, tensors["expected/in_scope"])


def test_cross_attention_is_the_authors(golden):
    tensors, _ = read(golden, "serac_cross_attention_fp32")
    model = AutoModelForSequenceClassification.from_pretrained(
        golden / "trained_editors/serac_distilbert_pair", dtype=torch.float32
    )
    queries = [f"query {n}" for n in range(5)]
    entries = [Entry(f"key {n}", "") for n in range(3)]
    pairs = [f"{entry.prompt}[SEP]{query}" for query in queries for entry in entries]
    ids = dict(zip(pairs, ids_of(tensors, "pair"), strict=True))
    scope = CrossAttentionScope(PairTexts(model, Given(ids), 40, "given"), "prompt")
    with torch.no_grad():
        found = scope.log_similarity(queries, scope.queries(queries), entries, scope.keys(entries))
    assert_close(found, tensors["expected/log_similarity"], 5e-6)
    assert torch.equal(found.exp().max(1).values > 0.5, tensors["expected/in_scope"])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp64", 1e-12)])
@pytest.mark.parametrize(
    "case", ["mixed", "negative_with_similarity_one", "only_negatives", "only_positives"]
)
def test_the_loss_and_its_gradient_are_the_authors(golden, case, precision, tolerance):
    tensors, _ = read(golden, f"serac_losses_{precision}")
    values = tensors[f"inputs/{case}.log_similarity"].requires_grad_()
    inside = tensors[f"inputs/{case}.in_scope_label"] > 0.5
    loss = balanced_bce(values[inside], values[~inside])
    (gradient,) = torch.autograd.grad(loss, values)
    assert_close(loss.detach(), tensors[f"expected/{case}.loss"], tolerance)
    assert_close(gradient, tensors[f"expected/{case}.gradient"], tolerance)


@pytest.mark.parametrize("which", ["all", "diagonal"])
def test_the_objective_takes_the_authors_pairs(golden, which):
    tensors, _ = read(golden, "serac_losses_fp64")
    pairs = tensors["inputs/objective.positive_pairs"]
    positive = tensors["inputs/objective.query_vs_edit"][pairs[:, 0], pairs[:, 1]]
    negative = tensors["inputs/objective.locality_vs_edit"]
    negative = negative.flatten() if which == "all" else negative.diagonal()
    loss = balanced_bce(positive, negative)
    assert_close(loss, tensors[f"expected/objective.loss_{which}_negatives"], 1e-12)


def test_in_scope_is_within_the_logarithm_of_two():
    lengths = torch.tensor([0.0, 0.99, 1.01, 100.0]) * math.sqrt(math.log(2))
    queries = torch.zeros(4, 6)
    queries[:, 0] = lengths
    similarity = log_similarity(queries, torch.zeros(1, 6), Distance()).exp()[:, 0]
    assert similarity[0] == 1
    assert (similarity > THRESHOLD).tolist() == [True, True, False, False]


@pytest.mark.parametrize("settings", [{}, {"cosine": True}, {"squared": False}, {"heads": 2}])
def test_no_distance_is_below_zero_and_every_gradient_is_finite(settings):
    points = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = log_similarity(points, points, Distance(**settings))
    assert (found <= 0).all()
    (gradient,) = torch.autograd.grad(found.sum(), points)
    assert gradient.isfinite().all()


def test_the_loss_stays_finite_at_both_ends():
    ends = torch.tensor([-200.0, -1e-9, 0.0]).requires_grad_()
    loss = balanced_bce(ends, ends)
    (gradient,) = torch.autograd.grad(loss, ends)
    assert loss.isfinite() and gradient.isfinite().all()


def test_pairs_out_of_scope_can_weigh_more():
    inside, outside = torch.tensor([-0.3, -0.1]), torch.tensor([-0.2])
    one, three = (balanced_bce(inside, outside, weight) for weight in (1.0, 3.0))
    expected = 2 * -math.log(1 - math.exp(-0.2))
    assert three - one == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_texts_has_no_targets(language_model):
    encoder = Encoder(copied_body(language_model, 1), language_model.tokenizer, 256, "tiny")
    batch = encoder.encode(["Lagos is in", "Paris"])
    assert isinstance(batch, Batch)
    assert (batch.labels == -100).all()
