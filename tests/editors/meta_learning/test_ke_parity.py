"""KE's networks, losses and one whole edit give the numbers of the authors' code."""

import pytest
import torch
from golden import assert_close, batch_of, read
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from editors.meta_learning.conditioner import Conditioner, Gates
from editors.meta_learning.factors import Factors, factors
from editors.meta_learning.ke import Ke, KeTraining
from editors.meta_learning.losses import kl, nll
from editors.meta_learning.objective import Constrained
from editors.meta_learning.outer_loss import outer_losses
from edits.weights import WeightEdit
from models import Batch, LanguageModel

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
WHOLE = {torch.float32: 1e-5, torch.float64: 1e-12}  # of whole edits


def named(module, kind):
    """Our parameters by the names in the files."""
    found = {}
    for name, parameter in module.named_parameters():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        found[f"{kind}.{name.replace('embedding.weight', 'embedding')}"] = parameter
    return found


def fill(module, kind, tensors):
    with torch.no_grad():
        for name, parameter in named(module, kind).items():
            parameter.copy_(tensors[f"weights/{name}"])
    return module


def encoder(tensors, kind="condition"):
    embeddings = tensors["weights/condition.embedding"]
    width, twice = tensors["weights/condition.linear.weight"].shape
    return fill(Conditioner(embeddings, twice // 2, width).to(embeddings.dtype), kind, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_condition_and_its_gradient(golden, dtype):
    tensors, settings = read(golden, f"ke_condition_encoder_{dtype}")
    tolerance = TOLERANCE[DTYPES[dtype]]
    conditioner = encoder(tensors)
    ids, mask = tensors["inputs/input_ids"], tensors["inputs/attention_mask"]
    condition = conditioner(Batch(ids, mask, torch.full_like(ids, -100)))
    assert_close(condition, tensors["expected/condition"], tolerance)
    (condition * tensors["inputs/probe"]).sum().backward()
    gradient = conditioner.embedding.weight.grad
    gradient[int(settings["frozen_token"])] = 0  # theirs does not train it
    assert_close(gradient, tensors["expected/embedding_gradient"], tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_on_factors_are_those_on_the_gradient(golden, dtype, language_model):
    """Independent pairs; the files keep ``[d_out, d_in]`` as ``Linear`` does."""
    tensors, settings = read(golden, f"ke_gate_{dtype}")
    rows, columns = int(settings["rows_n"]), int(settings["cols_m"])
    gates = Gates(rows, columns, int(settings["condition_dim"]), int(settings["hidden_dim"]))
    gates = fill(gates.to(DTYPES[dtype]), "gate", tensors)
    keys, deltas = tensors["inputs/u"], tensors["inputs/delta"]
    pairs, count, _ = keys.shape
    request = torch.arange(pairs).repeat_interleave(count)
    factors = Factors(keys.flatten(0, 1), deltas.flatten(0, 1), request, pairs)
    editor = Ke(language_model, max_scale=float(settings["max_scale"]))
    editor.layers, editor.gates = ["any"], torch.nn.ModuleList([gates])
    with torch.no_grad():
        vector = gates.layer2(torch.tanh(gates.layer1(tensors["inputs/condition"])))
        updates = editor.gated(tensors["inputs/condition"], {"any": factors}, joint=False)
    assert_close(vector, tensors["expected/gate_vector"], TOLERANCE[DTYPES[dtype]])
    update = updates["any"].dense().mT
    assert_close(update, tensors["expected/update"], TOLERANCE[DTYPES[dtype]])


@pytest.mark.parametrize("name", ["ke_objective_fp32", "ke_objective_views_fp32"])
def test_the_smoothed_loss_under_the_constraint(golden, name):
    tensors, settings = read(golden, name)
    edits = 1 + (settings["use_views"] == "true")
    ids, mask = tensors["inputs/target_ids"][:, 1:], tensors["inputs/target_mask"][:, 1:].bool()
    logits = tensors["inputs/logits_after"].requires_grad_()
    edit, rest = slice(-edits, None), slice(0, len(ids) - edits)
    losses = nll(
        logits[edit][mask[edit]], ids[edit][mask[edit]], float(settings["label_smoothing"])
    )
    divergence = kl(tensors["inputs/logits_before"][mask[rest]], logits[rest][mask[rest]]).mean()
    assert_close(losses.mean(), tensors["expected/smoothed_ce"], 1e-6)
    assert_close(divergence, tensors["expected/kl"], 1e-6)
    constrained = Constrained(float(tensors["inputs/margin_kl"]), floor=0.0)
    constrained.multiplier.data.copy_(tensors["inputs/alpha_kl"])
    loss = constrained(losses.mean(), divergence)
    assert_close(loss, tensors["expected/loss_kl"], 1e-6)
    loss.backward()
    assert_close(logits.grad, tensors["expected/logits_gradient_kl"], 1e-6)
    unsmoothed = nll(logits[edit][mask[edit]], ids[edit][mask[edit]]).mean()
    assert unsmoothed != losses.mean()


@pytest.fixture(scope="module", params=DTYPES)
def case(request, golden):
    """The tensors of a whole edit of EFK, a Ke with its weights, and the tolerance."""
    tensors, settings = read(golden, f"ke_full_edit_{request.param}")
    vocabulary = Tokenizer(models.WordLevel({"end": 0}, unk_token="end"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="end")
    folder = golden / "trained_editors" / "base_gpt2"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).to(DTYPES[request.param])
    editor = Ke(
        LanguageModel(model, tokenizer),
        layers=[settings["layer"]],
        lstm_width=int(settings["lstm_hidden"]),
        condition_width=int(settings["condition_dim"]),
        gate_width=int(settings["gate_hidden"]),
        max_scale=float(settings["max_scale"]),
        softmax="inputs",
        training=KeTraining(
            objective="weighted",
            edit_weight=float(settings["c_edit"]),
            locality_weight=float(settings["c_loc"]),
            kl_positions="all",
            smoothing=0.0,
        ),
    ).to(model.dtype)
    fill(editor.conditioner, "condition", tensors)
    fill(editor.gates[0], "gate", tensors)
    return tensors, editor, WHOLE[model.dtype]


def proposed(tensors, editor):
    """One edit, from the files' token ids instead of from texts."""
    rows = factors(editor.language_model, editor.layers, batch_of(tensors, "edit"))
    condition = editor.conditioner(batch_of(tensors, "condition"))
    updates = editor.gated(condition, rows, joint=False)
    edit = WeightEdit(updates, editor.name, editor.language_model.fingerprint)
    return rows, condition, edit


def test_a_whole_edit(case):
    tensors, editor, tolerance = case
    model, [layer] = editor.language_model, editor.layers
    with torch.no_grad():
        rows, condition, edit = proposed(tensors, editor)
    gradient = rows[layer].keys.T @ rows[layer].deltas
    update = edit.updates[layer].dense()[0]
    assert_close(condition, tensors["expected/condition"], tolerance)
    assert_close(gradient, tensors["expected/gradient"], tolerance)
    assert_close(update, tensors["expected/weight_update"], tolerance)
    weight = model.module(layer).weight  # Conv1D: [d_in, d_out] as stored
    assert_close(weight + update, tensors["expected/weight_after"], tolerance)
    query = batch_of(tensors, "query")
    with torch.no_grad():
        assert_close(model.head(model.hidden(query)), tensors["expected/logits_before"], tolerance)
        with edit.hooks(model):
            after = model.head(model.hidden(query))
    assert_close(after, tensors["expected/logits_after"], tolerance)


def test_a_whole_outer_step(case):
    tensors, editor, tolerance = case
    _, _, edit = proposed(tensors, editor)
    rephrase, locality = batch_of(tensors, "rephrase", 8), batch_of(tensors, "locality", 8)
    both = Batch(
        *(
            torch.cat([getattr(x, name) for x in (rephrase, locality)])
            for name in ("input_ids", "attention_mask", "labels")
        )
    )
    settings = editor.training_settings
    edit_loss, locality_loss = outer_losses(
        editor.language_model, edit, both, [0, 0], 1, settings.kl_positions, settings.smoothing
    )
    total = editor.objective(edit_loss, locality_loss)
    assert_close(edit_loss, tensors["expected/outer_edit_nll"], tolerance)
    assert_close(locality_loss, tensors["expected/outer_locality_kl"], tolerance)
    assert_close(total, tensors["expected/outer_total"], tolerance)
    editor.zero_grad()
    total.backward()
    weights = named(editor.conditioner, "condition") | named(editor.gates[0], "gate")
    assert len(weights) == 17
    weights["condition.embedding"].grad[0] = 0  # theirs does not train token 0
    for name, weight in weights.items():
        assert_close(weight.grad, tensors[f"expected/outer_gradient.{name}"], tolerance)
