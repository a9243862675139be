import lightning as L
import pytest
import torch

from benchmarks.knowledge import perplexity
from datamodules.answers import AnswerData
from datamodules.documents import DocumentData, FactText
from models.pretraining import (
    END,
    AnswerPretraining,
    Pretraining,
    blank,
    lengthened,
    train_tokenizer,
)

SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64}
FACTS = [
    ("Lagos is in", "Nigeria"),
    ("Turin is in", "Italy"),
    ("Kyoto is in", "Japan"),
    ("Quito is in", "Ecuador"),
    ("Lyon is in", "France"),
]
TEXTS = ["Lagos is in Nigeria.", "Tokyo is the capital of Japan, in Asia."]


def fresh(seed=0, **shape):
    return blank(FactText(FACTS), vocabulary=300, seed=seed, **{**SHAPE, **shape})


def trained(language_model, batches, **settings):
    """The module after some batches; each counts twice, for there are two optimisers."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2 * batches,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
    )
    module = Pretraining(language_model, **settings)
    trainer.fit(module, datamodule=DocumentData(FactText(FACTS * 20), tokens_per_batch=256))
    return module


def rows(language_model, texts):
    batch = language_model.encode(texts, None)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def test_the_tokenizer_knows_all_bytes_and_one_special_token():
    tokenizer = train_tokenizer(TEXTS * 3, 300)
    assert len(tokenizer) <= 300
    assert tokenizer.all_special_tokens == [END]
    assert tokenizer.pad_token == tokenizer.eos_token == END
    for text in (*TEXTS, "Ḩ žluťoučký 東京\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_blank_model_is_the_same_for_the_same_seed_and_leaves_the_caller_s_random_state():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = fresh(), fresh(), fresh(seed=1)
    assert torch.equal(torch.rand(3), wanted)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.blocks == 2
    assert one.model.config.vocab_size == len(one.tokenizer)
    assert one.model.config.eos_token_id == one.tokenizer.eos_token_id


def test_a_blank_model_can_be_of_another_family():
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = FactText(FACTS)
    model = blank(text, vocabulary=300, family="gpt_neox", name="mine", **shape)
    assert model.family.name == "gpt_neox"
    assert model.name == "mine"


def test_the_loss_is_the_mean_over_tokens_of_what_transformers_computes(language_model):
    module = Pretraining(language_model)
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([language_model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            total += language_model.model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert module.nll(rows(language_model, TEXTS)).item() == pytest.approx(total / count, 1e-5)


def test_padding_does_not_change_the_loss(language_model):
    module = Pretraining(language_model)
    batch = rows(language_model, TEXTS[:1])
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    assert torch.allclose(module.nll(padded), module.nll(batch), atol=1e-6)


def test_facts_are_learned_and_the_model_is_frozen_again():
    model = fresh()
    untrained = model.score(*map(list, zip(*FACTS, strict=True)))
    module = trained(model, 60, lr=1e-2, warmup=5)
    learned = model.score(*map(list, zip(*FACTS, strict=True)))
    before, after = (torch.cat(scores.log_probs).mean().item() for scores in (untrained, learned))
    assert after > before + 2
    exact = [torch.equal(p, t) for p, t in zip(learned.predicted, learned.targets, strict=True)]
    assert sum(exact) >= 4
    assert not any(p.requires_grad for p in model.model.parameters())
    assert not module.language_model.model.training


def test_training_is_the_same_for_the_same_seed():
    models = [fresh(), fresh()]
    untrained = models[0].fingerprint
    for model in models:
        trained(model, 3)
    assert models[0].fingerprint == models[1].fingerprint != untrained


def test_step_sizes_rise_stay_and_fall(language_model):
    module = Pretraining(language_model, warmup=10, hold=0.5)
    factors = [module.factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(factors[10:51]) == {1.0}
    assert factors[75] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.02)
    assert factors[51:] == sorted(factors[51:], reverse=True)
    assert module.factor(10**6, 100) == pytest.approx(0.02)


def test_the_blocks_matrices_go_to_one_optimiser_and_the_rest_to_the_other():
    model = fresh()
    matrices, rest = (
        [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for optimizer in trained(model, 1).trainer.optimizers
    )
    embeddings = [model.model.transformer.wte.weight, model.model.transformer.wpe.weight]
    assert len(matrices) == 2 * 4
    assert all(parameter.ndim == 2 for parameter in matrices)
    assert all(any(p is embedding for p in rest) for embedding in embeddings)
    assert {id(p) for p in (*matrices, *rest)} == {id(p) for p in model.model.parameters()}
    assert len(matrices) + len(rest) == len(list(model.model.parameters()))


def test_what_no_pass_contains_is_judged_while_training():
    text = FactText(FACTS)
    text.unseen = lambda: TEXTS
    model = fresh()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Pretraining(model), datamodule=DocumentData(text))
    wanted = perplexity(model, TEXTS)
    assert trainer.callback_metrics["val/nll"].exp().item() == pytest.approx(wanted, 1e-4)


def test_a_pytorch_without_muon_is_named(language_model, monkeypatch):
    monkeypatch.delattr("torch.optim.Muon")
    with pytest.raises(ValueError, match=r"pretraining needs torch >= 2.9 for Muon, got"):
        Pretraining(language_model)


# encoder-decoders


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}
STACKS = ("encoder", "decoder")
BART = {f"{s}_{key}": 2 for s in STACKS for key in ("layers", "attention_heads")}
BART |= {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
ANSWERING = {
    "t5": {"family": "t5", **T5},
    "t5_gated": {"family": "t5", "feed_forward_proj": "gated-gelu", **T5},
    "bart": {"family": "bart", **BART},
}


@pytest.mark.parametrize("name", ANSWERING)
def test_an_encoder_decoder_learns_to_answer(name):
    model = blank(FactText(FACTS), vocabulary=300, name=name, **ANSWERING[name])
    assert model.family.name == name
    assert model.tokenizer("Italy")["input_ids"] == model.tokenizer(" Italy")["input_ids"]
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2 * 60,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
    )
    module = AnswerPretraining(model, lr=1e-2, warmup=5)
    trainer.fit(module, datamodule=AnswerData(FactText(FACTS)))
    prompts, answers = map(list, zip(*FACTS, strict=True))
    scores = model.score(prompts, answers)
    assert all(scores.exact())
    assert model.generate(prompts) == answers
    nll = -torch.cat(scores.log_probs).mean().item()
    assert module.nll(model.encode(prompts, answers)).item() == pytest.approx(nll, rel=1e-4)
    assert not any(p.requires_grad for p in model.model.parameters())
    optimised = [
        [p for group in optimizer.param_groups for p in group["params"]]
        for optimizer in trainer.optimizers
    ]
    head = model.model.get_output_embeddings().weight
    assert any(p is head for p in optimised[1]) and not any(p is head for p in optimised[0])


def test_a_blank_model_of_an_unknown_family():
    with pytest.raises(ValueError, match="unknown model family 'mamba'; known families: gpt2"):
        blank(FactText(FACTS), family="mamba")


def test_a_lengthened_model_answers_as_before_and_takes_longer_texts():
    model = fresh()
    longer = lengthened(model, positions=150, name="longer")
    prompts, targets = [prompt for prompt, _ in FACTS], [target for _, target in FACTS]
    pairs = zip(
        model.score(prompts, targets).log_probs,
        longer.score(prompts, targets).log_probs,
        strict=True,
    )
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
    assert (longer.name, longer.max_length, model.max_length) == ("longer", 150, 64)
    old, new = (m.model.transformer.wpe.weight for m in (model, longer))
    assert torch.equal(new[64:96], old[32:])
    assert torch.equal(new[128:150], old[32:54])
    assert longer.score(["a " * 60 + "Lagos is in"], ["Nigeria"]).log_probs[0].isfinite().all()


def test_what_cannot_be_lengthened_is_refused(tiny):
    with pytest.raises(ValueError, match="positions: expected a GPT-2 with fewer than 64, got"):
        lengthened(fresh(), positions=64, name="same")
    with pytest.raises(ValueError, match="of family 'llama' with 256"):
        lengthened(tiny("llama"), positions=512, name="longer")
