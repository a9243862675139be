"""Facts reach a model in training as prompts and answers."""

import types

import pytest
import torch

from datamodules.answers import AnswerData
from datamodules.documents import FactText

FACTS = [(f"City {n} is in", f"country {n}") for n in range(10)]


def batches(language_model, epoch, **settings):
    data = AnswerData(FactText(FACTS), **settings)
    module = types.SimpleNamespace(language_model=language_model)
    data.trainer = types.SimpleNamespace(current_epoch=epoch, lightning_module=module)
    return list(data.train_dataloader())


def texts(language_model, found):
    """Prompts and answers of some batches, from their ids."""
    decode, end = language_model.tokenizer.decode, language_model.tokenizer.eos_token_id
    pairs = []
    for batch in found:
        for ids, mask, labels in zip(
            batch.source.input_ids, batch.source.attention_mask, batch.labels, strict=True
        ):
            answer = labels[labels >= 0]
            assert answer[-1] == end
            pairs.append((decode(ids[mask.bool()]), decode(answer[:-1])))
    return pairs


def test_each_epoch_has_every_fact_once_in_another_order(tiny):
    first, again, second = (
        texts(tiny("t5"), batches(tiny("t5"), epoch, batch_size=4)) for epoch in (0, 0, 1)
    )
    assert sorted(first) == sorted(second) == sorted(FACTS)
    assert first == again != second


def test_batches_have_the_size_asked_for(tiny):
    found = batches(tiny("bart"), 0, batch_size=4)
    assert [len(batch.labels) for batch in found] == [4, 4, 2]
    assert all(
        torch.equal(b.input_ids[:, 0], b.input_ids[:1, 0].expand(len(b.labels))) for b in found
    )


def test_nothing_is_held_out():
    assert AnswerData(FactText(FACTS)).val_dataloader() == []


def test_a_batch_has_a_fact():
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        AnswerData(FactText(FACTS), batch_size=0)
