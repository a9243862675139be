"""T-Patcher: patches mend what they are made for, side by side as by themselves."""

import pytest
import torch

from datamodules.atlas.data import AtlasData
from datamodules.pool import Pool
from datamodules.records import Request
from editors.additional_parameters.margins import PatchLosses
from editors.additional_parameters.tpatcher import Stopping, TPatcher, _Course

REQUESTS = [
    Request("The Eiffel Tower is in", "Eiffel Tower", "Sweden"),
    Request("The capital of Japan is", "Japan", "the city of Paris"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Germany"),
]
LOSSES = PatchLosses(activation_top=40, memory_weight=1.0, smoothing=0.0)


@pytest.fixture(scope="module")
def pool():
    return Pool(AtlasData(), limit=6)


def editor(language_model, pool, steps=60, **settings):
    settings = {"losses": LOSSES, "lr": 3e-2, **settings}
    return TPatcher(language_model, pool=pool, stopping=Stopping(steps=steps), **settings)


def right(edit, language_model, requests=REQUESTS, **rows):
    scores = edit.edited(language_model).score(
        [r.prompt for r in requests], [r.target for r in requests], **rows
    )
    return [torch.equal(a, b) for a, b in zip(scores.predicted, scores.targets, strict=True)]


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "t5", "bart"])
def test_patches_mend_their_requests(tiny, pool, family):
    lm = tiny(family)
    losses = PatchLosses(activation_top=100, memory_weight=0.1, smoothing=0.0)
    edit = editor(lm, pool, steps=150, most=12, losses=losses).edit_each(REQUESTS)
    assert right(edit, lm, rows=[0, 1, 2]) == [True] * 3
    assert right(edit, lm, rows=[-1] * 3) == [False] * 3
    assert all(0 < count <= 12 for count in edit.counts)


@pytest.mark.parametrize("most", [1, 2])
def test_edits_side_by_side_equal_edits_one_by_one(exact, pool, most):
    one = editor(exact, pool, steps=15, edits_per_batch=2, most=most)
    together = one.edit_each(REQUESTS)
    for number, request in enumerate(REQUESTS):
        alone, ours = one.edit([request]), together.select(number)
        assert alone.requests == ours.requests
        for name, tensor in alone.neurons.tensors.items():
            torch.testing.assert_close(ours.neurons.tensors[name], tensor, rtol=0, atol=1e-9)


def test_a_request_that_is_taken_out_was_never_made(exact, pool):
    one = editor(exact, pool, steps=10)
    both, first = one.edit(REQUESTS[:2]), one.edit(REQUESTS[:1])
    rest = both.without([REQUESTS[1].prompt])
    assert rest.requests == first.requests
    for name, tensor in first.neurons.tensors.items():
        torch.testing.assert_close(rest.neurons.tensors[name], tensor, rtol=0, atol=1e-9)
    later = one.edit(REQUESTS[2:], after=first)
    assert later.counts[0] > first.counts[0]
    back = later.without([REQUESTS[2].prompt])
    assert all(map(torch.equal, back.neurons.tensors.values(), first.neurons.tensors.values()))


def test_what_is_right_already_gets_no_patch(language_model, pool):
    one = editor(language_model, pool)
    first = one.edit(REQUESTS[:1])
    again = one.edit(REQUESTS[:2], after=first)
    assert [patched.neurons for patched in again.requests[0]][1] == 0
    assert again.requests[0][2].neurons > 0


def test_the_queries_of_earlier_edits_are_left_alone(exact, pool):
    """A later edit's memory holds them, and its patches see the earlier ones."""
    one = editor(exact, pool, steps=10)
    first = one.edit(REQUESTS[:1])
    plain, grown = one._memories, one._grown(first)
    width = len(exact.tokenizer(f"{REQUESTS[0].prompt} {REQUESTS[0].target}")["input_ids"]) - 1
    for ours, theirs in zip(grown, plain, strict=True):
        assert len(ours) == len(theirs) + LOSSES.copies * width - 2


def test_a_memory_keeps_patches_quiet(language_model, pool):
    edits = [
        editor(language_model, pool, losses=PatchLosses(memory_weight=weight)).edit(REQUESTS[:1])
        for weight in (0.0, 10.0)
    ]
    one = editor(language_model, pool)
    one.prepare()
    rows = one._memories[0]
    loud, quiet = (
        torch.nn.functional.gelu(rows @ e.neurons.keys[0].T + e.neurons.biases[0]).abs().mean()
        for e in edits
    )
    assert quiet < loud / 2


def test_a_patch_that_is_done_stops(language_model, pool):
    stopping = Stopping(steps=400, first=20, every=5)
    one = TPatcher(language_model, pool=pool, losses=LOSSES, stopping=stopping, lr=3e-2)
    one.prepare()
    with torch.no_grad():
        history = one.train(one.start(REQUESTS), one._memories)
    assert all(len(losses) > 20 for losses in history)
    assert min(map(len, history)) < 400


def test_what_cannot_be_is_refused(language_model):
    with pytest.raises(ValueError, match="tpatcher takes its memory of a pool: pool=records"):
        TPatcher(language_model).edit(REQUESTS)
    with pytest.raises(ValueError, match="margins is 'none', expected one of paper, official"):
        PatchLosses(margins="none")
    with pytest.raises(ValueError, match="copies must be at least 1, got 0"):
        PatchLosses(copies=0)


def test_a_request_with_more_patches_than_the_others_may_stop_first(exact, pool):
    """Those that go on have the losses that they have alone."""
    one = editor(exact, pool, most=3)
    one.prepare()
    with torch.no_grad():
        patches = one.start(REQUESTS)
    counts = [len(own) for own, *_ in patches.tensors]
    fewer = [n for n, count in enumerate(counts) if count < max(counts)]
    assert fewer
    beside = _Course(one, patches, one._memories).losses(fewer)
    for number, loss in zip(fewer, beside, strict=True):
        alone = _Course(one, patches.of([number]), one._memories).losses([0])
        torch.testing.assert_close(loss, alone[0], rtol=1e-12, atol=0)
