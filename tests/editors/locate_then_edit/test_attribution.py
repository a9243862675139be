"""Attributions against one forward pass for each share, on whole texts, with plain hooks."""

import pytest
import torch
from reference import CLOSE, Reference, distance
from samples import in_float64

from editors.locate_then_edit.attribution import Integral, attributions

PROMPTS = ["The capital of Sweden is", "In", "What is the mother tongue of Angela Merkel?"]
ANSWERS = [[40, 7, 300], [11], [250, 9]]
BLOCKS = [0, 2]


def hooked(lm, block: int, site: str, change):
    """Changes the neurons ``[T, d_in]`` of one text in place of the model."""
    if site == "key":
        module = lm.module(lm.layer("mlp_out", block))
        return module.register_forward_pre_hook(
            lambda m, args: change(args[0].reshape(-1, args[0].shape[-1])).view_as(args[0])
        )
    gated = "mlp_gate" in lm.family.roles
    module = lm.module(lm.layer("mlp_gate" if gated else "mlp_in", block))
    return module.register_forward_hook(
        lambda m, args, out: change(out.reshape(-1, out.shape[-1])).view_as(out)
    )


def by_hand(lm, prompt: str, answer: list[int], block: int, shares, site="key", after_each=True):
    """Attribution ``[d_in]``: each share and answer token in a forward pass of its own."""
    ids = lm.tokenizer(prompt)["input_ids"]
    found = []
    for place, token in enumerate(answer):
        text = torch.tensor([ids + answer[:place] if after_each else ids])
        seen = []
        hook = hooked(lm, block, site, lambda x, seen=seen: seen.append(x[-1].clone()) or x)
        with torch.no_grad():
            lm.model(text)
        hook.remove()
        total = torch.zeros_like(seen[0])
        for share in shares:
            leaf = (share * seen[0]).requires_grad_()
            hook = hooked(lm, block, site, lambda x, leaf=leaf: torch.cat([x[:-1], leaf[None]]))
            with torch.enable_grad():
                chance = lm.model(text).logits[0, -1].softmax(-1)[token]
                total += torch.autograd.grad(chance, leaf)[0]
            hook.remove()
        found.append(seen[0] * total / len(shares))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "opt", "llama"])
@pytest.mark.parametrize(
    ("integral", "shares"),
    [
        (Integral(steps=4), [1 / 8, 3 / 8, 5 / 8, 7 / 8]),
        (Integral(3, "ends", "preactivation", "none"), [0, 1 / 2, 1]),
    ],
)
def test_it_is_the_sum_over_single_passes(family, integral, shares, tiny):
    lm = in_float64(tiny(family))
    found = attributions(lm, PROMPTS, ANSWERS, BLOCKS, integral, rows_per_batch=9)
    tolerance = 1e-12 if family == "gpt2" else 1e-6  # others' attention is float32 in any model
    for prompt, answer, got in zip(PROMPTS, ANSWERS, found, strict=True):
        for index, block in enumerate(BLOCKS):
            after_each = integral.continuation == "target"
            wanted = by_hand(lm, prompt, answer, block, shares, integral.site, after_each)
            assert distance(got[index], wanted) < tolerance


def test_attributions_add_up_to_what_the_neurons_do(any_family):
    """Completeness: with all neurons of a block as they are, less with none of them."""
    lm = in_float64(any_family)
    prompt, token = PROMPTS[0], ANSWERS[0][0]
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    found = attributions(lm, [prompt], [[token]], range(lm.blocks), Integral(steps=200))
    for block in range(lm.blocks):
        chances = []
        for share in (0, 1):
            hook = hooked(
                lm, block, "key", lambda x, share=share: torch.cat([x[:-1], share * x[-1:]])
            )
            with torch.no_grad():
                chances.append(lm.model(ids).logits[0, -1].softmax(-1)[token])
            hook.remove()
        assert found[0, block].sum() == pytest.approx(
            float(chances[1] - chances[0]), rel=1e-2
        )  # OPT's are not smooth


def test_how_many_rows_go_together_does_not_matter(tiny):
    lm = in_float64(tiny("gpt2"))
    one, other = (
        attributions(lm, PROMPTS, ANSWERS, [0, 1, 2], Integral(), rows_per_batch=rows)
        for rows in (1, 1000)
    )
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"grid": "left"}, "grid is 'left', expected one of midpoints, ends"),
        ({"site": "mlp"}, "site is 'mlp', expected one of key, preactivation"),
        ({"continuation": "argmax"}, "continuation is 'argmax', expected one of target, none"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        Integral(**arguments)


@pytest.mark.parametrize("case", ["single_token", "multi_token_target"])
def test_the_authors_numbers(case, golden):
    reference = Reference(golden / "other_editors")
    given = reference.json("knowledge_neurons")["cases"][case]
    expected = reference.tensors("knowledge_neurons")[f"expected/{case}/attributions"]
    integral = Integral(given["steps"], "ends", "preactivation", "none")
    lm, answer = reference.language_model, given["ground_truth_ids"]
    found = attributions(lm, [given["prompt"]], [answer], range(lm.blocks), integral)
    assert distance(found[0], expected) < CLOSE


@pytest.mark.parametrize("grid", ["midpoints", "ends"])
def test_shares_are_as_exact_as_the_model(grid):
    shares = Integral(steps=20, grid=grid).shares(torch.ones(1, dtype=torch.float64))
    exact = [(i + 0.5) / 20 if grid == "midpoints" else i / 19 for i in range(20)]
    assert torch.allclose(shares, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-15)
