"""Causal tracing against one forward pass for each state that is restored, with plain hooks."""

import math
from contextlib import ExitStack
from itertools import chain

import pytest
import torch
from samples import in_float64

from datamodules.records import Request
from evaluation.locating.tracing import KINDS, Tracing, trace

FACTS = [
    Request("The capital of Sweden is", "Sweden", "Paris", "Stockholm"),
    Request("What is the mother tongue of Angela Merkel? It is", "Angela Merkel", "yen", "German"),
    Request("Lagos", "Lagos", "Japan", "is in Nigeria"),
]
SMALL = Tracing(samples=2, window=2, rows_per_batch=7)


def places(lm, request: Request) -> tuple[int, int]:
    """First and last token of the subject."""
    offsets = lm.tokenizer(request.prompt, return_offsets_mapping=True)["offset_mapping"]
    start, end = request.span
    inside = [i for i, (a, b) in enumerate(offsets) if a < b and b > start and a < end]
    return inside[0], inside[-1]


def hidden(output):
    return output[0] if isinstance(output, tuple) else output


def module(lm, kind: str, block: int):
    role = {"mlp": "mlp_out", "attention": "attn_out"}
    return lm.module(lm.block(block) if kind == "hidden" else lm.layer(role[kind], block))


def by_hand(lm, facts, tracing: Tracing, window: int):
    """``clean``, ``corrupted`` and ``restored[kind][block, token]`` of each fact."""
    embed = lm.model.get_input_embeddings()
    prompts = [lm.tokenizer(fact.prompt)["input_ids"] for fact in facts]
    ranges = [places(lm, fact) for fact in facts]
    own = [ids[a : b + 1] for ids, (a, b) in zip(prompts, ranges, strict=True)]
    scale = tracing.noise * embed(torch.tensor([*chain(*own)])).std()
    generator = torch.Generator().manual_seed(tracing.seed)
    for fact, ids, (first, last) in zip(facts, prompts, ranges, strict=True):
        drawn = torch.randn(
            tracing.samples, last + 1 - first, embed.weight.shape[1], generator=generator
        )
        answer = lm.tokenizer(" " + fact.target_true)["input_ids"]
        text = torch.tensor([ids + answer])

        def chance(text=text, ids=ids, answer=answer):
            logits = lm.model(text).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            return float(logits[range(len(answer)), answer].sum().exp())

        clean = {}
        with ExitStack() as stack:
            for kind in KINDS:
                for block in range(lm.blocks):

                    def keep(m, args, output, at=(kind, block)):
                        clean[at] = hidden(output).reshape(text.shape[1], -1).clone()  # noqa: B023

                    hook = module(lm, kind, block).register_forward_hook(keep)
                    stack.callback(hook.remove)
            high = chance()

        def under_noise(kind=None, blocks=(), at=None, chance=chance, clean=clean):
            found = 0.0
            for noise in drawn * scale:  # noqa: B023
                with ExitStack() as stack:

                    def corrupt(m, args, output, noise=noise):
                        output = output.clone()
                        output[0, first : last + 1] += noise  # noqa: B023
                        return output

                    stack.callback(embed.register_forward_hook(corrupt).remove)
                    for block in blocks:

                        def put(m, args, output, block=block):
                            changed = hidden(output).clone()
                            changed.view(text.shape[1], -1)[at] = clean[kind, block][at]  # noqa: B023
                            return (changed, *output[1:]) if isinstance(output, tuple) else changed

                        stack.callback(module(lm, kind, block).register_forward_hook(put).remove)
                    found += chance() / tracing.samples
            return found

        restored = {kind: torch.zeros(lm.blocks, len(ids)) for kind in KINDS}
        for kind in KINDS:
            for block in range(lm.blocks):
                around = [block]
                if kind != "hidden":
                    low, high_end = block - window // 2, block + math.ceil(window / 2)
                    around = [b for b in range(low, high_end) if 0 <= b < lm.blocks]
                for at in range(len(ids)):
                    restored[kind][block, at] = under_noise(kind, around, at)
        yield high, under_noise(), restored


@pytest.mark.parametrize("family", ["gpt2", "gptj", "opt", "llama"])
def test_each_state_is_what_it_is_alone(family, tiny):
    lm = in_float64(tiny(family))
    found = trace(lm, FACTS, SMALL)
    with torch.no_grad():
        expected = list(by_hand(lm, FACTS, SMALL, window=2))
    for fact, one, (clean, corrupted, restored) in zip(FACTS, found, expected, strict=True):
        assert one.request is fact
        assert one.subject == places(lm, fact)
        assert "".join(one.tokens) == fact.prompt
        assert one.clean == pytest.approx(clean, rel=1e-6)
        assert one.corrupted == pytest.approx(corrupted, rel=1e-6)
        assert abs(corrupted / clean - 1) > 1e-2
        for kind in KINDS:
            assert torch.allclose(one.restored[kind].float(), restored[kind], rtol=1e-5)


def test_it_does_not_matter_who_shares_a_batch_or_which_kinds_are_asked(tiny):
    lm = in_float64(tiny("gpt2"))
    found = trace(lm, FACTS, SMALL)
    other = trace(lm, FACTS, Tracing(["attention"], 2, samples=2, rows_per_batch=500))
    for one, two in zip(found, other, strict=True):
        assert list(two.restored) == ["attention"]
        assert torch.allclose(one.restored["attention"], two.restored["attention"], rtol=1e-9)


def test_behind_the_last_block_the_last_token_alone_says_the_answer(any_family):
    fact = Request("The capital of Sweden", "Sweden", "Japan", "is")
    assert len(any_family.tokenizer(" is")["input_ids"]) == 1
    [one] = trace(any_family, [fact], SMALL)
    assert one.restored["hidden"][-1, -1] == pytest.approx(one.clean, rel=1e-4)
    for chances in one.restored.values():
        assert chances[-1, :-1] == pytest.approx(one.corrupted, rel=1e-4)
        assert chances[-1, -1] != pytest.approx(one.corrupted, rel=1e-4)


def test_the_noise_comes_from_a_seed(language_model):
    one, same, other = (
        trace(language_model, FACTS, Tracing(["hidden"], samples=2, seed=seed))[1]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.restored["hidden"], same.restored["hidden"])
    assert one.corrupted != other.corrupted


def test_the_model_is_left_as_it_was(tiny):
    lm = tiny("gpt2")

    def fail(m, args, output):
        raise RuntimeError("in the middle")

    before = {name: len(m._forward_hooks) for name, m in lm.model.named_modules()}
    hook = lm.module(lm.layer("mlp_out", 2)).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        trace(lm, FACTS, SMALL)
    hook.remove()
    trace(lm, FACTS[:1], SMALL)
    assert {name: len(m._forward_hooks) for name, m in lm.model.named_modules()} == before
    assert not any("forward" in vars(m) for m in lm.model.modules())


def test_windows_lie_around_their_block():
    tracing = Tracing(window=4)
    assert [list(tracing.restored("mlp", block, 6)) for block in (0, 3, 5)] == [
        [0, 1],
        [1, 2, 3, 4],
        [3, 4, 5],
    ]
    assert list(tracing.restored("hidden", 3, 6)) == [3]
    assert [Tracing().width(blocks) for blocks in (1, 4, 12, 48)] == [1, 1, 2, 10]


# what cannot be


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"kinds": ["mlp", "keys"]}, "kinds: expected some of hidden, mlp, attention"),
        ({"kinds": []}, "kinds: expected some of hidden, mlp, attention"),
        ({"kinds": "mlp"}, "kinds: expected some of hidden, mlp, attention"),
        ({"noise": 0.0}, "noise: expected more than 0, got 0.0"),
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"rows_per_batch": 0}, "rows_per_batch: expected at least 1, got 0"),
        ({"window": 4}, "window: expected 1 to 3, the model's blocks, got 4"),
        ({"window": 0}, "window: expected 1 to 3, the model's blocks, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, error, language_model):
    with pytest.raises(ValueError, match=error):
        trace(language_model, FACTS, Tracing(**arguments))


def test_facts_that_cannot_be_traced_are_refused(language_model):
    with pytest.raises(ValueError, match="there are no facts to trace"):
        trace(language_model, [])
    with pytest.raises(ValueError, match="'Lagos is in' has no true answer to trace"):
        trace(language_model, [Request("Lagos is in", "Lagos", "Japan")])
