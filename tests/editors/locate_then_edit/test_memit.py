import copy
import logging

import pytest
import torch
from by_hand import written
from samples import AT_THE_END, CONTEXTS, CORPUS, MOMENTS, REQUESTS, bundled, in_float64

from datamodules.records import Request
from editors.locate_then_edit.keys import alike, halved
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.statistics.moments import Moments
from edits.loading import load
from edits.updates import Dense
from models import LanguageModel

WEIGHT = 30.0


def editor(lm, **arguments) -> Memit:
    """Two layers, and room for the long change that a random model needs."""
    given = {"moments": MOMENTS, "contexts": CONTEXTS, "layers": [0, 1], "steps": 8, "lr": 0.1}
    given |= {"clamp": 50.0, "weight_decay": 0.0, "covariance_weight": WEIGHT}
    return Memit(lm, **bundled({**given, **arguments}))


def log_probs(model, requests, **rows) -> torch.Tensor:
    answers = model.score([r.prompt for r in requests], [r.target for r in requests], **rows)
    return torch.stack([answer.sum() for answer in answers.log_probs])


def ridge_by_hand(c, keys, past):
    return torch.linalg.inv(WEIGHT * c + past.mT @ past + keys.mT @ keys) @ keys.mT


def test_edits_of_every_family_make_their_targets_likely(any_family):
    memit = editor(any_family, covariance_weight=0.1, steps=20)
    edit = memit.edit_each(AT_THE_END)
    before = log_probs(any_family, AT_THE_END)
    after = log_probs(edit.edited(any_family), AT_THE_END, rows=[0, 1, 2])
    assert len(edit) == 3 and edit.editor == "memit"
    assert (after > before + 1).all()


def test_an_edit_after_another_is_that_of_the_edited_model(language_model):
    lm = in_float64(language_model)
    memit = editor(lm)
    first = memit.edit(REQUESTS[:1])
    both = memit.edit(REQUESTS[1:], after=first)
    merged = copy.deepcopy(lm.model)
    with torch.no_grad():
        for layer, update in first.updates.items():
            merged.get_submodule(layer).weight += update.dense()[0]
    again = editor(LanguageModel(merged, lm.tokenizer))
    again.prepare()
    again.fitted = memit.fitted  # second moments are those of the clean model
    second = again.edit(REQUESTS[1:])
    for layer, update in both.updates.items():
        expected = (first.updates[layer].dense() + second.updates[layer].dense())[0]
        assert (update.dense()[0] - expected).norm() < 1e-6 * expected.norm()


def test_an_edit_with_history_spares_the_keys_of_the_one_before(language_model, tmp_path):
    lm = in_float64(language_model)
    memit = editor(lm, history=True)
    first = memit.edit(REQUESTS[:2])
    merged, _, keys = written(memit, REQUESTS[:2], ridge_by_hand, lambda left: 1 / left)
    for layer in memit.layers:
        torch.testing.assert_close(first.past_keys[layer][0], keys[layer], rtol=1e-5, atol=1e-6)
    first.save(tmp_path / "first.safetensors")
    second = memit.edit(REQUESTS[2:], after=load(tmp_path / "first.safetensors", lm))
    assert [k.shape[1] for k in second.past_keys.values()] == [3, 3]
    after = editor(merged, history=True)
    after.fitted = memit.fitted
    _, expected, _ = written(
        after,
        REQUESTS[2:],
        lambda c, k, p: torch.linalg.inv(WEIGHT * c + p.mT @ p + k.mT @ k) @ k.mT,
        lambda left: 1 / left,
        past=keys,
        counted=lm,
    )
    layer = memit.layers[0]
    got = second.updates[layer].dense()[0] - first.updates[layer].dense()[0]
    assert (got - expected[layer]).norm() < 1e-5 * expected[layer].norm()
    forgetful = editor(lm).edit(REQUESTS[2:], after=first).updates[layer].dense()[0]
    assert (second.updates[layer].dense()[0] - forgetful).norm() > 1e-3 * got.norm()


def test_a_past_key_is_not_spared_from_a_new_one_of_the_same_subject(language_model):
    lm = in_float64(language_model)
    sweden = [Request(f"Sweden {rest}", "Sweden", "Paris") for rest in ("is in", "likes")]
    lagos = Request("Lagos is in", "Lagos", "yen")
    held, free, forgetful = (
        editor(lm, layers=[0], covariance_weight=1e-3, **settings)
        for settings in ({"history": True}, {"history": True, "same_key": 0.99}, {})
    )
    first = held.edit([sweden[0], lagos])
    before = first.updates[held.layers[0]].dense()[0]
    key = first.past_keys[held.layers[0]][0, 0]  # Sweden's
    moved = [
        key @ (one.edit([sweden[1]], after=first).updates[held.layers[0]].dense()[0] - before)
        for one in (held, free, forgetful)
    ]
    assert 2 * moved[0].norm() == pytest.approx(float(moved[1].norm()), rel=1e-2)
    torch.testing.assert_close(moved[1], moved[2], rtol=1e-2, atol=1e-3 * float(moved[2].norm()))
    both = free.edit([sweden[1]], after=first)
    lagos_key = first.past_keys[held.layers[0]][0, 1]
    change = both.updates[held.layers[0]].dense()[0] - before
    assert (lagos_key @ change).norm() < 1e-2 * moved[1].norm()  # a past key of another subject
    assert both.past_keys[held.layers[0]].shape[1] == 3


def test_history_without_a_past_is_warned_of(language_model, caplog):
    first = editor(language_model).edit(REQUESTS[:1])
    assert not first.past_keys
    with caplog.at_level(logging.WARNING):
        editor(language_model, history=True).edit(REQUESTS[1:], after=first)
    assert "remembers no keys; memit spares none" in caplog.text


def test_requests_of_one_subject_can_share_a_value(language_model):
    lm = in_float64(language_model)
    requests = [
        Request("Sweden is in", "Sweden", "Paris"),
        Request("Lagos is in", "Lagos", "yen"),
        Request("Sweden has the currency", "Sweden", "Japan, the country"),
    ]
    apart, merged = (editor(lm, same_key=cosine) for cosine in (None, 0.99))
    for memit in (apart, merged):
        memit.prepare()
    alone, shared = apart.values(requests, 1), merged.values(requests, 1)
    torch.testing.assert_close(shared[1], alone[1])
    torch.testing.assert_close(shared[0], shared[2], rtol=1e-9, atol=1e-9)
    assert (alone[0] - alone[2]).norm() > 0.1 * alone[0].norm()
    independent = merged.edit_each(requests).updates[merged.layers[0]].dense()
    expected = apart.edit_each(requests).updates[merged.layers[0]].dense()
    assert torch.equal(independent, expected)


def test_a_batch_with_more_keys_than_inputs_becomes_a_whole_matrix(language_model):
    lm = in_float64(language_model)
    places = ["Sweden", "Lagos", "Japan", "Paris", "Tokyo", "Germany", "France"]
    requests = [
        Request(f"{how} {place} is", place, "yen") for place in places for how in "ABCDEFGHIJ"
    ]
    edit = editor(lm, steps=1, clamp=1.0).edit(requests)
    assert all(isinstance(update, Dense) for update in edit.updates.values())


def test_keys_count_the_bare_prompt_as_much_as_all_contexts():
    keys = torch.tensor([[[4.0], [1.0], [3.0]]])
    assert halved(keys).tolist() == [[3.0]]
    assert halved(keys[:, :1]).tolist() == [[4.0]]


def test_keys_alike_are_found_through_others():
    angles = torch.tensor([0.0, 2.0, 0.1, 0.2, 0.05, 2.05])
    keys = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1.0, 7.0)[:, None]
    assert alike(keys, 0.99) == [0, 1, 0, 0, 0, 1]
    assert alike(torch.zeros(2, 3), 0.99) == [0, 1]


def test_the_default_layers_end_a_third_up(tiny):
    for blocks, expected in {2: [0], 3: [0, 1], 4: [0, 1, 2], 20: [3, 4, 5, 6, 7]}.items():
        memit = Memit(tiny("gpt2", num_hidden_layers=blocks), moments=MOMENTS)
        assert memit.blocks == expected


def test_second_moments_are_taken_once_and_cached(language_model, tmp_path):
    memit = editor(language_model, moments=Moments(CORPUS, tmp_path, limit=3))
    memit.prepare()
    fitted = dict(memit.fitted)
    memit.edit_each(REQUESTS[:1])
    assert memit.fitted == fitted and len(list(tmp_path.iterdir())) == 2


def test_contexts_are_sampled_if_none_are_given(language_model):
    memit = editor(language_model, contexts=Contexts(lengths=((10, 5),), seed=3))
    memit.prepare()
    assert memit.templates[0] == "{}" and 1 < len(memit.templates) <= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, r"layers: expected blocks from the lowest up, got \[\]"),
        ({"layers": [1, 0]}, r"layers: expected blocks from the lowest up, got \[1, 0\]"),
        ({"layers": [1, 2]}, "layers: 2 is the last block, which no later token reads"),
        ({"layers": [1, 3]}, "no block 3 in 'tiny-gpt2'; it has 0 to 2"),
        ({"covariance_weight": 0}, "covariance_weight must be more than 0, got 0"),
        ({"rows_per_batch": 0}, "rows_per_batch must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"moments": None}, "memit takes moments: the second moments of a corpus"),
    ],
)
def test_arguments_out_of_range_are_refused(language_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        editor(language_model, **arguments)
