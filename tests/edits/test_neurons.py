"""Neuron edits: what they add, to whom, and what becomes of them in files and sums."""

import copy

import pytest
import torch

from edits import load
from edits.neurons import NeuronEdit, Neurons, Patched
from models import LanguageModel
from models.feed_forward import feed_forward

PROMPTS = ["The Eiffel Tower is in", "Japan", "Marie Curie was a citizen of the country of"]
TARGETS = ["Sweden", "the yen", "Germany"]


def drawn(language_model, counts=(2, 1, 3), block=None):
    """An edit for each count; its neurons belong to one request each."""
    place = feed_forward(language_model, language_model.blocks - 1 if block is None else block)
    (d_in, _), (_, d_out) = (language_model.shape(n) for n in (place.given, place.layer))
    like = {"dtype": language_model.dtype, "generator": torch.Generator().manual_seed(3)}
    edits = []
    for number, k in enumerate(counts):
        keys, ups = (torch.randn(1, k, d_in, **like) for _ in range(2))
        neurons = Neurons(
            keys, torch.randn(1, k, **like), 3 * torch.randn(1, k, d_out, **like),
            place.activation, ups if place.gated else None,
        )  # fmt: skip
        owners = (tuple(Patched(f"{number}.{n}", "x", 1) for n in range(k)),)
        owner = "drawn", language_model.fingerprint
        edits.append(NeuronEdit(neurons, place.given, place.layer, *owner, owners))
    return NeuronEdit.stack(edits)


@pytest.fixture(scope="module", params=["gpt2", "opt", "llama", "t5_gated", "bart"])
def lm(request, tiny):
    return tiny(request.param)


def scores(model, rows=None, prompts=PROMPTS, targets=TARGETS):
    options = {} if rows is None else {"rows": rows}
    return model.score(prompts, targets, **options).log_probs


def same(ours, theirs, tolerance=0.0):
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_the_layers_own_neurons_double_what_it_says(any_answering):
    doubled_says_the_same(any_answering)


def test_the_layers_own_neurons_double_what_a_decoder_says(any_family):
    doubled_says_the_same(any_family)


def doubled_says_the_same(lm):
    place, last = feed_forward(lm, lm.blocks - 1), lm.blocks - 1
    keys, values = lm.weight(place.given).T, lm.weight(place.layer)
    bias = getattr(lm.linear(place.given), "bias", None)
    ups = None
    if place.gated:
        gate = lm.layer("mlp_gate", last)
        assert lm.linear(gate).bias is None
        keys, ups = lm.weight(gate).T, keys[None]
    biases = keys.new_zeros(1, len(keys)) if bias is None else bias[None]
    neurons = Neurons(keys[None], biases, values[None], place.activation, ups)
    edit = NeuronEdit(neurons, place.given, place.layer, "own", lm.fingerprint)
    twice = copy.deepcopy(lm.model)
    twice.get_submodule(place.layer).weight.data *= 2
    wanted = scores(LanguageModel(twice, lm.tokenizer))
    assert same(scores(edit.edited(lm)), wanted, 1e-4)
    assert not same(scores(lm), wanted, 1e-2)


def test_rows_choose_the_edit_and_rows_of_minus_one_are_the_model_to_the_bit(lm):
    edit = drawn(lm)
    plain, mixed = scores(lm), scores(edit.edited(lm), [2, -1, 0])
    assert torch.equal(mixed[1], plain[1])
    for at, number in ((0, 2), (2, 0)):
        alone = scores(edit.select(number).edited(lm))[at]
        assert not torch.allclose(mixed[at], plain[at], atol=1e-3)
        torch.testing.assert_close(mixed[at], alone, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, scores(edit.edited(lm), [-1] * 3), plain))
    generated = edit.edited(lm).generate(PROMPTS, rows=[-1] * 3, max_new_tokens=4)
    assert generated == lm.generate(PROMPTS, max_new_tokens=4)


def test_generation_with_the_cache_is_scoring_again_and_again(tiny):
    lm = tiny("gpt2")
    edited, rows = drawn(lm).edited(lm), [0, 1, 2]
    texts = edited.generate(PROMPTS, rows=rows, max_new_tokens=5)  # padded on the left
    alone = [edited.generate([p], rows=[n], max_new_tokens=5) for n, p in enumerate(PROMPTS)]
    assert texts == [text for (text,) in alone]
    batch = lm.encode(PROMPTS, None)
    encoded = batch.input_ids, batch.attention_mask
    ids = [x[m.bool()].tolist() for x, m in zip(*encoded, strict=True)]
    for _ in range(5):
        for n, row in enumerate(ids):
            with torch.no_grad(), drawn(lm).hooks(lm, [n]):
                states = lm.model.base_model(input_ids=torch.tensor([row]), use_cache=False)[0]
            row.append(int(lm.head(states[0, -1]).argmax()))
    for text, start, row in zip(texts, PROMPTS, ids, strict=True):
        said = lm.tokenizer.decode(row)[len(start) :]
        assert said.startswith(text)


def test_padding_adds_nothing_and_sums_hold_the_neurons_of_both(tiny):
    lm = tiny("llama")
    edit = drawn(lm)
    assert edit.counts == [2, 1, 3]
    assert edit.select(1).neurons.count == 1
    both = edit.select(0).plus(edit.select(1))
    assert both.counts == [3] and len(both) == 1
    wide = edit.select(1).neurons.padded(6)
    x = torch.randn(2, 4, wide.shape[0])
    torch.testing.assert_close(wide.shared()(x), edit.select(1).neurons.shared()(x))
    each = edit.plus(edit.select([2, 0, 1]))
    assert each.counts == [5, 3, 4]
    torch.testing.assert_close(
        each.neurons.rowwise(torch.tensor([0, 1]))(x),
        edit.neurons.rowwise(torch.tensor([0, 1]))(x)
        + edit.neurons.rowwise(torch.tensor([2, 0]))(x),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_taking_out_what_was_added_gives_back_the_edit_before(tiny):
    lm = tiny("gpt2")
    edit = drawn(lm)
    first, second = edit.select(0), edit.select(2)
    both = first.plus(second)
    rest = both.without([patched.prompt for patched in second.requests[0]])
    assert rest.requests == first.requests
    for name, tensor in first.neurons.tensors.items():
        assert torch.equal(rest.neurons.tensors[name], tensor)
    nothing = first.without(["0.0", "0.1"])
    assert same(scores(nothing.edited(lm)), scores(lm))
    with pytest.raises(ValueError, match="no request of the edit has the prompt 'x'"):
        both.without(["x"])
    with pytest.raises(ValueError, match="only a single edit can be taken from, got 3"):
        edit.without(["0.0"])


def test_a_file_holds_the_edit(lm, tmp_path):
    edit = drawn(lm)
    edit.save(tmp_path / "edit.safetensors")
    loaded = load(tmp_path / "edit.safetensors", lm)
    assert loaded.requests == edit.requests and loaded.editor == "drawn"
    rows = [2, 0, 1]
    assert all(map(torch.equal, scores(loaded.edited(lm), rows), scores(edit.edited(lm), rows)))


def test_its_size_is_what_it_adds(tiny):
    edit = drawn(tiny("gpt2"))
    assert edit.size(tiny("gpt2")) == {"neurons": 6.0, "added_parameters": 6.0 * (32 + 1 + 32)}


def test_what_cannot_be_is_refused(tiny, tmp_path):
    lm, edit = tiny("gpt2"), drawn(tiny("gpt2"))
    with pytest.raises(ValueError, match="changes no weights, so it cannot be merged"):
        edit.merge(lm, tmp_path / "merged")
    with pytest.raises(ValueError, match="cannot be exported as an adapter"):
        edit.export(lm, tmp_path / "adapter")
    with pytest.raises(ValueError, match="neurons of different places"):
        edit.plus(drawn(lm, block=0))
    with pytest.raises(ValueError, match="edits of different models"):
        edit.plus(drawn(tiny("llama")))
    with pytest.raises(ValueError, match="activation is 'sine'"):
        Neurons(torch.ones(1, 1, 2), torch.ones(1, 1), torch.ones(1, 1, 2), "sine")
    with pytest.raises(ValueError, match=r"neurons need keys \[N, k, d\]"):
        Neurons(torch.ones(1, 1, 2), torch.ones(1, 2), torch.ones(1, 1, 2), "relu")
