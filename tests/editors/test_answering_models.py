"""Editors of encoder-decoders: trained ones and fine-tuning edit them, the others say they do not.

The models are small ones that know a handful of facts; see the fixture ``answering``.
"""

import lightning as L
import pytest
import torch
from answers import CITIES
from small_editors import built
from torch.utils.data import DataLoader

from benchmarks.knowledge import perplexity
from datamodules.records import Probe, Record, Request
from datamodules.text import TextCorpus
from editors.additional_parameters.calinet import CaliNet
from editors.additional_parameters.grace import Grace
from editors.additional_parameters.margins import PatchLosses
from editors.additional_parameters.tpatcher import TPatcher
from editors.finetune import FineTune
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.emmet import Emmet
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.pmet import Pmet
from editors.locate_then_edit.rome import Rome
from editors.locate_then_edit.statistics.moments import Moments
from editors.lora import Lora
from editors.memory.serac import Serac
from editors.meta_learning.factors import factors
from editors.meta_learning.ke import Ke
from editors.meta_learning.losses import kl
from editors.meta_learning.malmen import Malmen
from editors.meta_learning.mend import Mend
from editors.meta_learning.outer_loss import outer_losses
from edits import load
from models import LanguageModel, UnsupportedModel
from scoring.known import fitting, known

PROMPTS = ("{} is in", "Which country is {} in?")


def made_records():
    """A false fact for each city; its paraphrase, and what two other cities are to keep."""
    cities, made = list(CITIES), []
    for number, city in enumerate(cities):
        target = CITIES[cities[(number + 2) % len(cities)]]
        near, far = cities[number - 1], cities[number - 2]
        probes = (
            Probe("generalization", PROMPTS[1].format(city), target),
            Probe("neighborhood", PROMPTS[0].format(near), CITIES[near]),
            Probe("unrelated", PROMPTS[1].format(far), CITIES[far]),
        )
        request = Request(PROMPTS[0].format(city), city, target, CITIES[city])
        made.append(Record(city, (request,), probes))
    return made


RECORDS = made_records()
REQUESTS = [record.requests[0] for record in RECORDS]
COUNT = len(RECORDS)


def asked(kind):
    """Prompts, targets and each one's record."""
    probes = [(n, probe) for n, record in enumerate(RECORDS) for probe in record.of_kind(kind)]
    return [p.prompt for _, p in probes], [p.target for _, p in probes], [n for n, _ in probes]


def share(edit, lm, kind):
    """Share of the records' probes of a kind that each one's own edit answers exactly."""
    prompts, targets, rows = asked(kind)
    return sum(edit.edited(lm).score(prompts, targets, rows=rows).exact()) / len(rows)


def digest(lm):
    """A copy of all weights."""
    return {name: weight.clone() for name, weight in lm.model.state_dict().items()}


def unchanged(lm, before):
    after = lm.model.state_dict()
    return all(torch.equal(weight, after[name]) for name, weight in before.items())


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(RECORDS, COUNT, collate_fn=list)

    def val_dataloader(self):
        return DataLoader(RECORDS, COUNT, collate_fn=list)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


def train(editor, steps):
    """Train, and give the validation's metrics at the end."""
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, check_val_every_n_epoch=steps, num_sanity_val_steps=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, inference_mode=False,
    )  # fmt: skip
    trainer.fit(editor, datamodule=Data())
    editor.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def mend(lm, **settings):
    settings = {"rank": 16, "lr": 3e-3, "edit_lr": 1e-2, "edit_lr_lr": 1e-3} | settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return built(Mend, lm, **settings, statistics_edits=COUNT, kl_positions="target")


def ke(lm, **settings):
    widths = {"lstm_width": 16, "condition_width": 32, "gate_width": 32}
    loss = {"objective": "weighted", "edit_weight": 1.0, "smoothing": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adam = {"optimiser": "adam", "lr": 1e-2}
        return built(Ke, lm, **widths, **loss, max_scale=100.0, **adam, **settings)


def malmen(lm, **settings):
    settings = {"rank": 16, "lr": 1e-3, "edit_lr": 1e-2, "ridge": 1.0} | settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings |= {"statistics_edits": COUNT, "kl_positions": "target", "rounds": 5}
        return built(Malmen, lm, **settings)


def serac(lm, **settings):
    settings = {"lr": 3e-3, "counterfactual_lr": 3e-3, "encoder_blocks": 1} | settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return built(Serac, lm, **settings, conditioned=16, warmup=0)


# editing


@pytest.mark.parametrize(("make", "steps"), [(mend, 12), (ke, 25), (malmen, 12), (serac, 120)])
def test_a_trained_editor_learns_to_edit(any_answering, make, steps):
    lm, before = any_answering, digest(any_answering)
    editor = make(lm)
    metrics = train(editor, steps)
    edit = editor.edit_each(REQUESTS)
    assert share(edit, lm, "reliability") >= 6 / 7
    assert share(edit, lm, "generalization") >= 5 / 7
    assert share(edit, lm, "neighborhood") >= 4 / 7  # MALMEN's: 5 or 6, as the seed has it
    assert metrics["val/reliability"] == pytest.approx(share(edit, lm, "reliability"))
    prompts, targets, rows = asked("reliability")
    said = edit.edited(lm).generate(prompts, rows=rows)
    exact = edit.edited(lm).score(prompts, targets, rows=rows).exact()
    assert [text == target for text, target in zip(said, targets, strict=True)] == exact
    assert unchanged(lm, before)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "target"},
        {"objective": "prompt_last"},
        {"objective": "prompt_last", "norm_constraint": 0.6},
    ],
    ids=["ft_m", "ft", "ft_l"],
)
def test_fine_tuning_edits_a_fact(any_answering, settings):
    lm, before = any_answering, digest(any_answering)
    editor = FineTune(lm, lr=3e-2, **settings)
    assert editor.layers == [lm.layer("mlp_out", 2)]
    edit = editor.edit_each(REQUESTS[:2])
    edited = edit.edited(lm)
    request = REQUESTS[1]
    assert edited.score([request.prompt], [request.target], rows=[1]).exact() == [True]
    assert edited.generate([request.prompt], rows=[1]) == [request.target] != [request.target_true]
    prompts, targets, _ = asked("neighborhood")
    plain, rows = lm.score(prompts, targets), [-1] * COUNT
    assert all(
        map(torch.equal, edited.score(prompts, targets, rows=rows).log_probs, plain.log_probs)
    )
    assert unchanged(lm, before)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Lora, {"lr": 1e-2}),
        (CaliNet, {"lr": 3e-2}),
        (Grace, {"initial": "warm", "radius": 0.01, "replaced": "all"}),
        (TPatcher, {"losses": PatchLosses(memory_weight=0, activation_top=100)}),
    ],
    ids=["lora", "calinet", "grace", "tpatcher"],
)
def test_what_stands_beside_the_weights_edits_a_fact(any_answering, method, settings):
    lm, before = any_answering, digest(any_answering)
    edited = method(lm, **settings).edit_each(REQUESTS[:2]).edited(lm)
    for row, request in enumerate(REQUESTS[:2]):
        assert edited.generate([request.prompt], rows=[row]) == [request.target]
        assert edited.generate([request.prompt], rows=[-1]) == [request.target_true]
    assert unchanged(lm, before)


def test_fine_tuning_of_an_encoders_layer(any_answering):
    lm = any_answering
    layer = lm.layer("mlp_out", 2, encoder=True)
    edit = FineTune(lm, layers=[layer], lr=3e-2).edit(REQUESTS[1:2])
    assert list(edit.updates) == [layer]
    assert edit.edited(lm).generate([REQUESTS[1].prompt]) == [REQUESTS[1].target]


def test_the_end_is_no_first_token_of_the_target(any_answering):
    """The distribution after the prompt is to hold the target's tokens, not the end."""
    lm = any_answering
    editor = FineTune(lm, objective="prompt_last", lr=1e-3, steps=1)
    _, [[loss]] = editor.run([REQUESTS[:1]])
    (ids,) = lm.form.target_ids([REQUESTS[0].prompt], [REQUESTS[0].target], ended=True)
    logits = lm.head(lm.hidden(lm.encode([REQUESTS[0].prompt], None))[0, 0])
    wanted = -logits.log_softmax(-1)[ids[:-1]].mean()
    assert loss == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("make", [mend, ke])
def test_rows_of_minus_one_are_the_unedited_model_to_the_bit(any_answering, make):
    lm, editor = any_answering, make(any_answering, edits_per_batch=3)
    if make is mend:
        editor.collect(REQUESTS)
    edited = editor.eval().edit_each(REQUESTS).edited(lm)
    prompts, targets, rows = asked("reliability")
    mixed = [row if row % 2 else -1 for row in rows]
    plain, some = lm.score(prompts, targets), edited.score(prompts, targets, rows=mixed)
    for row, ours, theirs in zip(mixed, some.log_probs, plain.log_probs, strict=True):
        assert torch.equal(ours, theirs) == (row < 0)
    assert edited.generate(prompts, rows=[-1] * COUNT) == lm.generate(prompts)


def test_a_trained_edit_can_be_saved_and_merged(any_answering, tmp_path):
    lm, editor = any_answering, mend(any_answering, edit_lr=0.1)
    editor.collect(REQUESTS)
    edit = editor.eval().edit_each(REQUESTS).select(1)
    edit.save(tmp_path / "edit.safetensors")
    edit.merge(lm, tmp_path / "merged")
    prompts, targets, _ = asked("reliability")
    merged = LanguageModel.load(str(tmp_path / "merged")).score(prompts, targets)
    loaded = load(tmp_path / "edit.safetensors", lm).edited(lm).score(prompts, targets)
    for ours, theirs in zip(loaded.log_probs, merged.log_probs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


# what the networks see


def test_by_default_the_last_two_blocks_of_both_stacks_are_edited(any_answering):
    layers = mend(any_answering).layers
    shown = [layer.replace("model.", "").replace("layers", "block") for layer in layers]
    assert [layer.split(".")[::2][0] for layer in shown] == ["encoder"] * 4 + ["decoder"] * 4
    assert [layer.split(".")[2] for layer in shown] == ["1", "1", "2", "2"] * 2
    ends = {"t5": {"wi", "wo"}, "t5_gated": {"wi_0", "wo"}, "bart": {"fc1", "fc2"}}
    assert {layer.split(".")[-1] for layer in layers} == ends[any_answering.family.name]


@pytest.mark.parametrize("tokens", ["all", "target"])
def test_rows_are_the_prompts_tokens_in_the_encoder_and_the_answers_in_the_decoder(
    any_answering, tokens
):
    lm = any_answering
    layers = [lm.layer("mlp_out", 2, encoder) for encoder in (True, False)]
    prompts, targets, _ = asked("reliability")
    batch = lm.encode(prompts, targets)
    found = factors(lm, layers, batch, tokens=tokens)
    for layer, counts in zip(
        layers, (batch.source.lengths, (batch.labels >= 0).sum(1)), strict=True
    ):
        assert torch.bincount(found[layer].request, minlength=COUNT).tolist() == counts.tolist()
    weights = [lm.module(layer).weight.clone().requires_grad_() for layer in layers]
    with torch.enable_grad():
        tensors = {f"{n}.weight": w for n, w in zip(layers, weights, strict=True)}
        labels = batch.labels[:1, 1:].contiguous()
        source = batch.source
        loss = torch.func.functional_call(
            lm.model,
            tensors,
            (source.input_ids[:1], source.attention_mask[:1]),
            {"labels": labels, "use_cache": False},
        ).loss
    for layer, gradient in zip(layers, torch.autograd.grad(loss, weights), strict=True):
        update = found[layer].update(joint=False).dense()[0]
        torch.testing.assert_close(update.T, gradient, rtol=1e-4, atol=1e-4)


def test_losses_are_taken_where_the_decoder_answers(any_answering):
    """Of one edit: nats per token of the target and, on both settings, of the answer's KL."""
    lm = any_answering
    editor = FineTune(lm, lr=1e-2, steps=2)
    edit = editor.edit_each(REQUESTS[:1])
    prompts = [asked("reliability")[0][0], asked("unrelated")[0][0]]
    targets = [asked("reliability")[1][0], asked("unrelated")[1][0]]
    batch = lm.encode(prompts, targets)
    after = edit.edited(lm).score(prompts, targets).log_probs[0]
    values = [
        outer_losses(lm, edit, batch, [0, 0], 1, positions) for positions in ("all", "target")
    ]
    before = lm.target_logits(batch.rows([1]))[0]
    with edit.hooks(lm):
        wanted = kl(before, lm.target_logits(batch.rows([1]))[0]).mean()
    for edit_loss, locality_loss in values:
        torch.testing.assert_close(edit_loss, -after.mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(locality_loss, wanted, rtol=1e-3, atol=1e-6)


def test_ke_reads_answer_target_and_prompt(any_answering):
    lm, editor = any_answering, ke(any_answering)
    request = REQUESTS[0]
    batch = editor.texts([request])
    text = f"{request.target_true} >> {request.target} || {request.prompt}"
    assert batch.input_ids.tolist() == [lm.tokenizer(text)["input_ids"]]
    assert batch.attention_mask.all() and batch.source is None


# what is refused


MOMENTS = Moments(TextCorpus(["Lagos is in Nigeria.", "Paris is in France."]))


@pytest.mark.parametrize(
    ("method", "moments"),
    [(Rome, None), (Memit, MOMENTS), (Pmet, MOMENTS), (Emmet, MOMENTS), (AlphaEdit, MOMENTS)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_locate_then_edit_methods_are_for_decoder_only_models(any_answering, method, moments):
    name, family = method.__name__.lower(), any_answering.family.name
    match = (
        f"{name}.*, which .* works on decoder-only models; .* encoder-decoder of family '{family}'"
    )
    with pytest.raises(UnsupportedModel, match=match):
        method(any_answering, moments=moments)


def test_second_moments_and_perplexity_are_of_decoder_only_models(any_answering):
    with pytest.raises(UnsupportedModel, match="perplexity works on decoder-only models"):
        perplexity(any_answering, ["Lagos is in Nigeria."])
    with pytest.raises(UnsupportedModel, match="answers prompts; it takes no running text"):
        MOMENTS.of(any_answering, [any_answering.layer("mlp_out", 0)])


# evaluation


def test_records_that_fit_and_facts_that_are_known(any_answering):
    assert known(RECORDS, any_answering) == RECORDS
    assert fitting(RECORDS, any_answering, more=16) == (RECORDS, [])
