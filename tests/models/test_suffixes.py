from contextlib import ExitStack

import pytest
import torch

from edits.weights import LowRank, WeightEdit
from models.suffixes import resumed, suffixes

PROMPTS = ["The capital of Sweden is", "In", "What is the mother tongue of Angela Merkel?"]
TARGETS = ["Paris", "Japan, the country", "yen"]
AT = torch.tensor([3, 0, 5])


@pytest.fixture
def batch(any_family):
    return any_family.encode(PROMPTS, TARGETS)


def assert_same(lm, batch, ends, labels, rows=(0, 1, 2)):
    """The suffixes' states and labels are those of the whole texts from AT on."""
    whole, got = lm.hidden(batch), ends.hidden(lm)
    for i, row in enumerate(rows):
        tokens = int(batch.attention_mask[row].sum() - AT[row])
        expected = whole[row, AT[row] :][:tokens]
        torch.testing.assert_close(got[i, :tokens], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(labels[i, :tokens], batch.labels[row, AT[row] :][:tokens])
        assert (labels[i, tokens:] == -100).all()


def edit_of(lm, blocks):
    factors = torch.full((1, 64, 1), 0.3), torch.linspace(-1, 1, 32).view(1, 1, 32)
    updates = {lm.layer("mlp_out", block): LowRank(*factors) for block in blocks}
    return WeightEdit(updates, "rome", lm.fingerprint)


def test_ends_of_texts_answer_as_the_whole_texts(any_family, batch):
    for first in range(any_family.blocks):
        ends, labels = suffixes(any_family, batch, AT, first)
        assert_same(any_family, batch, ends, labels)
        assert_same(any_family, batch, ends, labels)  # nothing of the first run is left behind


def test_some_of_the_rows_answer_as_before(any_family, batch):
    ends, labels = suffixes(any_family, batch, AT, 1)
    rows = torch.tensor([2, 1])
    assert_same(any_family, batch, ends.of(rows), labels[rows], rows.tolist())


def test_an_edit_that_is_on_the_model_counts_also_below(any_family, batch):
    clean = any_family.hidden(batch)
    with edit_of(any_family, (0, 2)).hooks(any_family):
        assert (any_family.hidden(batch) - clean).abs().max() > 0.1
        ends, labels = suffixes(any_family, batch, AT, 1)
        assert_same(any_family, batch, ends, labels)


@pytest.mark.parametrize("edited", [False, True])
def test_the_last_feed_forward_part_runs_where_it_is_read_alone(any_family, batch, edited):
    lm, seen = any_family, []
    last = lm.module(lm.layer("mlp_out", lm.blocks - 1))
    with ExitStack() as stack:
        if edited:
            stack.enter_context(edit_of(lm, (0, 2)).hooks(lm))
        ends, labels = suffixes(lm, batch, AT, 1)
        read = labels != -100
        read[1, 0] = True
        assert 0 < read.sum() < read.numel()
        every = ends.hidden(lm)
        count = last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        stack.callback(count.remove)
        some, again = ends.hidden(lm, read), ends.hidden(lm)
    assert [x.reshape(-1, 64).shape[0] for x in seen] == [read.sum(), read.numel()]
    torch.testing.assert_close(some[read], every[read], rtol=1e-5, atol=1e-5)
    assert (some[~read] - every[~read]).abs().max() > 0.01
    assert torch.equal(again, every)


def test_texts_that_start_with_the_token_keep_nothing(any_family, batch):
    at = torch.zeros(3, dtype=torch.long)
    ends, labels = suffixes(any_family, batch, at, 1)
    assert torch.equal(labels, batch.labels) and ends.past[1][0].shape[2] == 0
    inside = batch.attention_mask.bool()
    torch.testing.assert_close(
        ends.hidden(any_family)[inside], any_family.hidden(batch)[inside], rtol=1e-4, atol=1e-4
    )


def test_padding_never_stands_beyond_the_models_last_place(language_model):
    long = " ".join(["Sweden"] * 600)
    ids = language_model.tokenizer(long)["input_ids"][: language_model.max_length]
    long = language_model.tokenizer.decode(ids)
    prompts = [long[: long.rindex("Sw")], PROMPTS[2]]
    batch = language_model.encode(prompts, None)
    lengths = batch.attention_mask.sum(1)
    at = torch.stack([lengths[0] - 1, torch.tensor(0)])
    assert lengths[0] - 1 + lengths[1] > language_model.max_length
    ends, _ = suffixes(language_model, batch, at, 1)
    assert ends.hidden(language_model).isfinite().all()


def test_blocks_below_do_not_compute_and_are_back_after_an_error(any_family, batch):
    calls = []
    module = any_family.module(any_family.layer("mlp_out", 0))
    ends, _ = suffixes(any_family, batch, AT, 2)
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    ends.hidden(any_family)
    assert not calls
    with pytest.raises(KeyboardInterrupt), resumed(any_family, 2, ends.below):
        raise KeyboardInterrupt
    any_family.hidden(batch)
    hook.remove()
    blocks = [any_family.module(any_family.block(block)) for block in range(3)]
    assert calls and all("forward" not in vars(block) for block in blocks)


def test_a_forward_that_was_replaced_before_stays_replaced(language_model):
    block = language_model.module(language_model.block(0))
    mine = block.forward = type(block).forward.__get__(block)
    try:
        with resumed(language_model, 1, None):
            assert block.forward is not mine
        assert block.forward is mine
    finally:
        del block.forward
