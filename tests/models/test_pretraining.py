import copy
import math

import lightning as L
import pytest
import torch

from datamodules.documents import DocumentData, FactText
from models.language_model import LanguageModel
from models.pretraining import END, Pretraining, blank, train_tokenizer

SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64}
FACTS = [(f"The {what} of {where} is", f"{what}{where}") for what in "abcd" for where in "xyz"]
TEXTS = ["Lagos is in Nigeria.", "Tokyo is the capital of Japan, in Asia."]


def fresh(seed=0, **shape):
    return blank(FactText(FACTS), vocabulary=300, seed=seed, **{**SHAPE, **shape})


def trained(language_model, steps, **settings):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=1.0,
    )
    module = Pretraining(language_model, **settings)
    trainer.fit(module, datamodule=DocumentData(FactText(FACTS)))
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
    copied = LanguageModel(copy.deepcopy(language_model.model), language_model.tokenizer)
    module = Pretraining(copied)
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([copied.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            total += copied.model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert module.nll(rows(copied, TEXTS)).item() == pytest.approx(total / count, 1e-5)


def test_padding_does_not_change_the_loss(language_model):
    copied = LanguageModel(copy.deepcopy(language_model.model), language_model.tokenizer)
    module = Pretraining(copied)
    batch = rows(copied, TEXTS[:1])
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    assert torch.allclose(module.nll(padded), module.nll(batch), atol=1e-6)


def test_facts_are_learned_and_the_model_is_frozen_again():
    model = fresh()
    untrained = model.score(*map(list, zip(*FACTS, strict=True)))
    module = trained(model, 150, lr=1e-2, warmup=10)
    learned = model.score(*map(list, zip(*FACTS, strict=True)))
    before, after = (
        torch.cat(scores.log_probs).mean().item() for scores in (untrained, learned)
    )
    assert after > before + 2
    exact = [torch.equal(p, t) for p, t in zip(learned.predicted, learned.targets, strict=True)]
    assert sum(exact) / len(exact) > 0.9
    assert not any(p.requires_grad for p in model.model.parameters())
    assert not module.language_model.model.training


def test_training_is_the_same_for_the_same_seed():
    prints = []
    for _ in range(2):
        L.seed_everything(0, verbose=False)
        model = fresh()
        trained(model, 3)
        prints.append(model.fingerprint)
    assert prints[0] == prints[1] != fresh().fingerprint


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    class Watch(L.Callback):
        def __init__(self):
            self.rates = []

        def on_train_batch_start(self, trainer, module, batch, index):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    watch = Watch()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=20,
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Pretraining(fresh(), lr=1.0, warmup=5), datamodule=DocumentData(FactText(FACTS)))
    assert watch.rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    wanted = [0.1 + 0.45 * (1 + math.cos(math.pi * step / 15)) for step in range(15)]
    assert watch.rates[5:] == pytest.approx(wanted)


def test_only_matrices_decay_and_the_embedding_does_not():
    model = fresh()
    module = Pretraining(model, weight_decay=0.5)
    module.trainer = L.Trainer(
        accelerator="cpu", max_steps=5, logger=False, enable_checkpointing=False
    )
    module.trainer.strategy.connect(module)
    module.trainer.fit_loop.setup_data = lambda: None
    module.trainer.fit_loop.max_batches = 5
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    embedding = model.model.get_input_embeddings().weight
    assert all(p.ndim == 2 and p is not embedding for p in groups[0]["params"])
    assert any(p is embedding for p in groups[1]["params"])
    count = sum(len(group["params"]) for group in groups)
    assert count == len(list(model.model.parameters()))
