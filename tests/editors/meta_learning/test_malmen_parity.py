"""MALMEN's network, and one whole training step, give the numbers of the authors' code."""

import json
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from golden import assert_close, read
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from editors.meta_learning.decoupled import decoupled
from editors.meta_learning.factors import Factors, factors
from editors.meta_learning.losses import kl, nll
from editors.meta_learning.malmen import Malmen, MalmenTraining
from editors.meta_learning.normaliser import EPSILON
from editors.meta_learning.transform import Transform
from edits.updates import Dense
from edits.weights import WeightEdit
from models import Batch, LanguageModel

STEPS = {
    "malmen_train_step_fp32": 5e-5,
    "malmen_train_step_fp64": 1e-12,
    "malmen_train_step_linear_all_tokens_fp64": 1e-12,
}
NAMES = {"a": "B", "b": "A", "bias": "bias", "scale": "film_scale", "shift": "film_shift"}


def fill(transform, tensors, weights, statistics):
    """Give a transform the authors' weights; their two factors are ours transposed."""
    with torch.no_grad():
        for number, block in enumerate(transform.nets["both"]):
            for ours, theirs in NAMES.items():
                value = tensors[f"{weights}block{number}.{theirs}"]
                getattr(block, ours).copy_(value.T if ours in "ab" else value)
        width = len(transform.key_statistics.mean)
        for part, ours in (
            (slice(width), transform.key_statistics),
            (slice(width, None), transform.delta_statistics),
        ):
            std = tensors[f"{statistics}std"][part]
            ours.count.copy_(tensors[f"{statistics}count"][0].long())
            ours.mean.copy_(tensors[f"{statistics}mean"][part])
            shifted = std + torch.finfo(std.dtype).eps - EPSILON  # what is added to a std differs
            ours.m2.copy_(shifted.square() * (ours.count - 1))


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-6), ("fp64", 1e-12)])
def test_pseudo_factors(golden, dtype, tolerance):
    tensors, settings = read(golden, f"malmen_network_{dtype}")
    sizes = (int(settings[name]) for name in ("key_size", "value_size", "n_layers_sharing"))
    rank, blocks = int(settings["rank"]), int(settings["n_blocks"])
    transform = Transform(*sizes, rank=rank, blocks=blocks, film="after")
    transform = transform.to(tensors["inputs/keys"].dtype)
    fill(transform, tensors, "weights/", "expected/after_chunk1.")
    for layer in range(2):
        with torch.no_grad():
            keys, deltas = transform(
                tensors["inputs/keys"], tensors["inputs/value_gradients"], layer
            )
        assert_close(keys, tensors[f"expected/layer{layer}.pseudo_keys"], tolerance)
        expected = tensors[f"expected/layer{layer}.pseudo_value_gradients"]
        assert_close(deltas, expected, tolerance)


@pytest.fixture(scope="module", params=STEPS)
def step(request, golden):
    """The tensors of a file, its chunks, a Malmen with its weights, and the tolerance."""
    folder = golden / "trained_editors"
    tensors, settings = read(golden, request.param)
    vocabulary = Tokenizer(models.WordLevel({"end": 0}, unk_token="end"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="end")
    model = AutoModelForCausalLM.from_pretrained(
        folder / settings["base"],
        dtype=torch.float32,
        attn_implementation="eager" if settings["base"] == "base_gpt2" else "sdpa",
    )
    model = model.double() if request.param.endswith("fp64") else model
    editor = Malmen(
        LanguageModel(model, tokenizer),
        layers=json.loads(settings["layers"]),
        rank=int(settings["rank"]),
        blocks=int(settings["n_blocks"]),
        rows_per_pass=int(settings["row_chunk"]),
        training=MalmenTraining(
            tokens={"ans": "target", "all": "all"}[settings["token"]], statistics="online"
        ),
    ).to(model.dtype)
    name = "{}x{}".format(*editor.language_model.shape(editor.layers[0]))
    fill(editor.transforms["0"], tensors, f"weights/{name}.", f"expected/{name}.")
    with torch.no_grad():
        editor.eta.copy_(tensors[f"weights/{name}.eta"][:, 0])
        editor.theta.copy_(tensors[f"weights/{name}.log_lambda"][:, 0])
    return Step(tensors, editor, name, int(settings["n_chunks"]), STEPS[request.param])


@dataclass
class Step:
    tensors: dict
    editor: Malmen
    group: str
    chunks: int
    tolerance: float

    def batch(self, kind, chunk):
        """Their labels stand where they are predicted, and are not the tokens that follow."""
        ids, mask, labels = (
            self.tensors[f"inputs/{kind}.chunk{chunk}.{part}"]
            for part in ("input_ids", "attention_mask", "labels")
        )
        pad = torch.nn.functional.pad
        return Batch(pad(ids, (0, 1)), pad(mask, (1, 0), value=1), pad(labels, (1, 0), value=-100))

    def rows(self):
        """Each layer's rows, theirs in all edits."""
        found = {}
        for layer in self.editor.layers:
            keys, deltas = (self.expected(layer, n) for n in ("keys", "value_gradients"))
            found[layer] = Factors(keys, deltas, torch.zeros(len(keys), dtype=torch.long), 1)
        return found

    def expected(self, layer, name):
        return self.tensors[f"expected/{layer}.{name}"]

    def close(self, ours, layer, name):
        assert_close(ours, self.expected(layer, name), self.tolerance)

    def losses(self, edit, chunk):
        """Means over all target tokens of a chunk."""
        model = self.editor.language_model
        rephrase, locality = self.batch("rephrase", chunk), self.batch("locality", chunk)
        with torch.no_grad():
            before = model.target_logits(locality)[0]
        with edit.hooks(model):
            logits, targets, _ = model.target_logits(rephrase)
            after = model.target_logits(locality)[0]
        return nll(logits, targets).mean(), kl(before, after).mean()

    def parts(self):
        return [partial(self.losses, chunk=chunk) for chunk in range(self.chunks)]


def test_rows_are_theirs_where_the_loss_reaches(step):
    """Their loss is the mean over the tokens of a chunk, ours that over each request's."""
    editor = step.editor
    counts = [(step.batch("edit", chunk).labels != -100).sum(1) for chunk in range(step.chunks)]
    shares = torch.cat([count.double() / count.sum() for count in counts])
    parts = [
        factors(
            editor.language_model,
            editor.layers,
            step.batch("edit", chunk),
            tokens=editor.training_settings.tokens,
        )
        for chunk in range(step.chunks)
    ]
    for layer in editor.layers:
        ours = Factors.concatenated([part[layer] for part in parts])
        deltas = step.expected(layer, "value_gradients")
        kept = (deltas != 0).any(1)
        assert_close(ours.keys, step.expected(layer, "keys")[kept], step.tolerance)
        scaled = ours.deltas * shares.to(ours.deltas)[ours.request][:, None]
        assert_close(scaled, deltas[kept], step.tolerance)


def test_proposals_updates_and_edited_logits(step):
    editor, rows = step.editor, step.rows()
    with torch.no_grad():
        edit = editor.propose([], rows, joint=True)
    for layer, eta in zip(editor.layers, editor.eta, strict=True):
        with torch.no_grad():
            pseudo = editor.transforms(layer, rows[layer].keys, rows[layer].deltas)
            changes = eta * editor.changes(layer, rows[layer])
        for ours, name in zip(pseudo, ("pseudo_keys", "pseudo_value_gradients"), strict=True):
            step.close(ours, layer, name)
        step.close(changes, layer, "value_diffs")
        step.close(edit.updates[layer].dense()[0], layer, "param_shift")
    model = editor.language_model
    query = (step.tensors[f"inputs/locality.chunk0.{n}"] for n in ("input_ids", "attention_mask"))
    with torch.no_grad(), edit.hooks(model):
        logits = model.head(model.hidden(Batch(*query, labels=None)))
    assert_close(logits, step.tensors["expected/logits_after"], step.tolerance)


def test_the_gradient_at_the_update(step):
    editor = step.editor
    leaves = {
        layer: step.expected(layer, "param_shift")[None].requires_grad_() for layer in editor.layers
    }
    updates = {layer: Dense(leaf) for layer, leaf in leaves.items()}
    edit = WeightEdit(updates, "malmen", editor.language_model.fingerprint)
    losses = [sum(part(edit)) for part in step.parts()]
    slopes = torch.autograd.grad(sum(losses), list(leaves.values()))
    for layer, slope in zip(editor.layers, slopes, strict=True):
        step.close(slope[0], layer, "meta_weight_gradient")


def test_losses_and_the_decoupled_gradients(step):
    editor = step.editor
    editor.zero_grad()
    edit = editor.propose([], step.rows(), joint=True)
    edit_loss, locality_loss, loss = decoupled(edit, step.parts(), torch.add)
    for ours, name in ((edit_loss, "rephrase"), (locality_loss, "locality")):
        expected = step.tensors[f"expected/{name}_loss_mean_over_chunks"]
        assert_close(ours / step.chunks, expected, step.tolerance)
    loss.backward()
    gradient = {
        name.partition(f"{step.group}.")[2]: value
        for name, value in step.tensors.items()
        if name.startswith("expected/hypernet_gradient")
    }
    assert_close(editor.eta.grad, gradient.pop("eta")[:, 0], step.tolerance)
    assert_close(editor.theta.grad, gradient.pop("log_lambda")[:, 0], step.tolerance)
    for number, block in enumerate(editor.transforms["0"].nets["both"]):
        for ours, theirs in NAMES.items():
            found = getattr(block, ours).grad
            found = found.T if ours in "ab" else found
            assert_close(found, gradient.pop(f"block{number}.{theirs}"), step.tolerance)
    assert not gradient
