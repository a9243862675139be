import copy
import logging
from dataclasses import replace

import pytest
import torch

from datamodules.records import Request
from editors.locate_then_edit.search import course, latent
from editors.locate_then_edit.search.latent import optimise
from editors.locate_then_edit.search.search import Search
from models import LanguageModel

REQUESTS = [
    Request("The capital of Sweden is", "Sweden", "Paris"),
    Request("Lagos is in", "Lagos", "Japan, the country"),
    Request("What is the mother tongue of Angela Merkel?", "Angela Merkel", "yen"),
    Request("Marie Curie was a citizen of", "Marie Curie", "Europe"),
    Request("The Eiffel Tower is in", "The Eiffel Tower", "Tokyo"),
]
CONTEXTS = ("{}", "We went home. {}", "The. {}")
SETTINGS = Search(steps=8, lr=0.3, clamp=3.0, weight_decay=0.1, stop_loss=0.05)


class InFloat64(LanguageModel):
    """In float64 to the end, so that batches can be compared to 1e-10."""

    def head(self, hidden):
        return self.model.get_output_embeddings()(hidden)


@pytest.fixture(scope="module")
def exact(tiny):
    return InFloat64(copy.deepcopy(tiny("gpt2").model).double(), tiny("gpt2").tokenizer)


@pytest.fixture(scope="module")
def stopping(exact):
    """Settings with which some of the requests stop early, at different passes."""
    site = exact.layer("mlp_out", 1)
    losses = optimise(exact, REQUESTS, CONTEXTS, [site], SETTINGS).losses[..., 0]
    return replace(SETTINGS, stop_loss=float(losses[:, 3].median()))


@pytest.fixture
def at_once(monkeypatch):
    """All requests in one batch, in their order."""
    monkeypatch.setattr(latent, "_batches", lambda lm, requests, *_: [[*range(len(requests))]])


def sites_of(lm, kind):
    names = {"mlp_out": [lm.layer("mlp_out", 1)], "block": [lm.block(1)]}
    return {**names, "two": [lm.layer("attn_out", 1), lm.layer("mlp_out", 1)]}[kind]


@pytest.mark.parametrize("kind", ["mlp_out", "block", "two"])
@pytest.mark.parametrize("rows_per_batch", [1, 12, 256])
def test_a_batch_of_edits_is_its_edits_one_by_one(exact, stopping, kind, rows_per_batch):
    sites = sites_of(exact, kind)
    together = optimise(exact, REQUESTS, CONTEXTS, sites, stopping, rows_per_batch)
    for i, request in enumerate(REQUESTS):
        alone = optimise(exact, [request], CONTEXTS, sites, stopping)
        for site in sites:
            torch.testing.assert_close(
                together.value(site)[i], alone.value(site)[0], rtol=1e-10, atol=1e-10
            )
        torch.testing.assert_close(
            together.losses[i], alone.losses[0], rtol=1e-10, atol=1e-10, equal_nan=True
        )


def test_edits_stop_at_their_own_pass_and_stay_where_they_are(exact, stopping):
    site = exact.layer("mlp_out", 1)
    found = optimise(exact, REQUESTS, CONTEXTS, [site], stopping)
    passes = (~found.losses[..., 0].isnan()).sum(1)
    assert len(passes.unique()) > 1 and passes.max() <= stopping.steps
    for i, count in enumerate(passes.tolist()):
        totals = found.losses[i, :count, 0]
        assert (totals[:-1] >= stopping.stop_loss).all()
        assert count == stopping.steps or totals[-1] < stopping.stop_loss
        shorter = optimise(
            exact, REQUESTS, CONTEXTS, [site], replace(stopping, steps=count, stop_loss=0.0)
        )
        torch.testing.assert_close(found.delta[site][i], shorter.delta[site][i])


def test_the_last_pass_updates_nothing(exact):
    site = exact.layer("mlp_out", 1)
    found = optimise(exact, REQUESTS[:2], CONTEXTS, [site], replace(SETTINGS, steps=1))
    assert (found.delta[site] == 0).all()
    assert torch.equal(found.value(site), found.initial[site])


def test_no_shift_is_longer_than_the_clamp(exact):
    site = exact.layer("mlp_out", 1)
    found = optimise(exact, REQUESTS, CONTEXTS, [site], replace(SETTINGS, clamp=0.05))
    ratios = found.delta[site].norm(dim=1) / found.initial[site].norm(dim=1)
    torch.testing.assert_close(ratios, torch.full_like(ratios, 0.05))


def terms_by_hand(lm, request, site, delta, settings):
    """The loss of one edit from whole forward passes, row by row: total, nll, kl, decay."""
    module, nlls, initials = lm.module(site), [], []

    def passed(text, end, shift, tail=()):
        ids = lm.tokenizer(text)["input_ids"]
        at = max(i for i, (a, _) in enumerate(lm.tokenizer(
            text, return_offsets_mapping=True)["offset_mapping"]) if a < end)  # fmt: skip
        seen = []

        def hook(module, args, output):
            seen.append(output[0, at].clone())
            return output.index_put((torch.tensor([0]), torch.tensor([at])), output[:, at] + shift)

        handle = module.register_forward_hook(hook)
        logits = lm.model(torch.tensor([ids + list(tail)])).logits[0].log_softmax(-1)
        handle.remove()
        return logits, at, len(ids), seen[0]

    target = lm.tokenizer(" " + request.target)["input_ids"]
    for context in CONTEXTS:
        prefix = context.removesuffix("{}")
        end = len(prefix) + request.span[1]
        logits, _, length, value = passed(prefix + request.prompt, end, delta, target[:-1])
        initials.append(value)
        nlls.append(-torch.stack([logits[length - 1 + j, t] for j, t in enumerate(target)]).mean())
    kept = f"{request.subject} is a"
    new, at, *_ = passed(kept, len(request.subject), delta)
    old, *_ = passed(kept, len(request.subject), torch.zeros_like(delta))
    kl = settings.kl_factor * (new[at].exp() * (new[at] - old[at])).sum()  # KL(edited || unedited)
    decay = settings.weight_decay * delta.norm() / initials[0].norm() ** 2
    nll = torch.stack(nlls).mean()
    return torch.stack([nll + kl + decay, nll, kl, decay])


def test_losses_and_first_step_agree_with_single_whole_forward_passes(exact):
    site = exact.layer("mlp_out", 1)
    found = optimise(exact, REQUESTS, CONTEXTS, [site], replace(SETTINGS, steps=2))
    last = optimise(exact, REQUESTS, CONTEXTS, [site], replace(SETTINGS, steps=3))
    for i, request in enumerate(REQUESTS):
        delta = torch.zeros(32, dtype=torch.float64, requires_grad=True)
        terms = terms_by_hand(exact, request, site, delta, SETTINGS)
        torch.testing.assert_close(found.losses[i, 0], terms.detach())
        assert terms[2] == 0 and terms[3] == 0
        adam = torch.optim.Adam([delta], lr=SETTINGS.lr)
        terms[0].backward()
        adam.step()
        torch.testing.assert_close(found.delta[site][i], delta.detach())
        adam.zero_grad()
        terms = terms_by_hand(exact, request, site, delta, SETTINGS)
        torch.testing.assert_close(found.losses[i, 1], terms.detach())
        assert terms[2] > 0
        terms[0].backward()
        adam.step()
        torch.testing.assert_close(last.delta[site][i], delta.detach())


def test_a_site_inside_the_last_block_is_shifted_too(tiny):
    lm = tiny("opt", do_layer_norm_before=False)  # a norm follows, so the block can't be shifted
    request = Request("The city they saw is Lagos", "Lagos", "Japan")
    site = lm.layer("mlp_out", lm.blocks - 1)
    losses = optimise(lm, [request], CONTEXTS, [site], replace(SETTINGS, steps=4)).losses[0, :, 0]
    assert (losses.diff() < -0.01).all()


def test_the_gradient_is_that_of_the_loss_by_differences(exact):
    rows, seen = latent.first_pass(exact, REQUESTS[:1], CONTEXTS, [exact.block(1)])
    (site,), generator = seen, torch.Generator().manual_seed(0)
    delta = torch.randn(1, 32, generator=generator, dtype=torch.float64).mul(0.3).requires_grad_()
    direction = torch.randn(1, 32, generator=generator, dtype=torch.float64)

    def value(shift):
        nll, log_p, _ = course.answers(exact, rows, {site: shift})
        return (nll + log_p.exp().mul(log_p).sum(1)).sum()

    (gradient,) = torch.autograd.grad(value(delta), delta)
    step = 1e-5
    with torch.no_grad():
        slope = (value(delta + step * direction) - value(delta - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_an_edit_that_is_not_finite_stops_alone_and_is_named(exact, at_once, caplog, monkeypatch):
    answers, calls = course.answers, []

    def spoiled(language_model, rows, delta):
        nll, *others = answers(language_model, rows, delta)
        calls.append(len(nll))
        if len(calls) == 3:
            nll = nll * torch.tensor([1, torch.nan, 1, 1, 1])
        return nll, *others

    site = exact.layer("mlp_out", 1)
    settings = replace(SETTINGS, stop_loss=0.0)
    expected = optimise(exact, REQUESTS, CONTEXTS, [site], settings)
    earlier = optimise(exact, REQUESTS, CONTEXTS, [site], replace(settings, steps=3))
    monkeypatch.setattr(course, "answers", spoiled)
    with caplog.at_level(logging.WARNING):
        found = optimise(exact, REQUESTS, CONTEXTS, [site], settings)
    assert calls == [5, 5, 5, 4, 4, 4, 4, 4]
    assert found.finite.tolist() == [True, False, True, True, True]
    (record,) = caplog.records
    assert record.args == (REQUESTS[1],) and "not finite" in caplog.text
    torch.testing.assert_close(found.delta[site][1], earlier.delta[site][1])
    others = [0, 2, 3, 4]
    torch.testing.assert_close(found.delta[site][others], expected.delta[site][others])


def test_edits_with_a_gradient_that_is_not_finite_stop_too(exact, at_once, monkeypatch):
    grad, calls = torch.autograd.grad, []

    def spoiled(*args):
        gradients = grad(*args)
        calls.append(1)
        gradients[0][0] = torch.inf if len(calls) == 2 else gradients[0][0]
        return gradients

    site = exact.layer("mlp_out", 1)
    settings = replace(SETTINGS, stop_loss=0.0, steps=5)
    earlier = optimise(exact, REQUESTS, CONTEXTS, [site], replace(settings, steps=2))
    monkeypatch.setattr(torch.autograd, "grad", spoiled)
    found = optimise(exact, REQUESTS, CONTEXTS, [site], settings)
    assert found.finite.tolist() == [False, True, True, True, True]
    torch.testing.assert_close(found.delta[site][0], earlier.delta[site][0])


def test_it_runs_inside_a_trainers_test_loop(language_model):
    site = language_model.layer("mlp_out", 1)
    expected = optimise(language_model, REQUESTS[:2], CONTEXTS, [site], SETTINGS)
    for around in (torch.no_grad, torch.inference_mode):
        with around(), torch.autocast("cpu", dtype=torch.bfloat16):
            found = optimise(language_model, REQUESTS[:2], CONTEXTS, [site], SETTINGS)
        assert torch.equal(found.value(site), expected.value(site))


def test_a_bfloat16_model_is_optimised_in_float32(language_model):
    lm = LanguageModel(copy.deepcopy(language_model.model).bfloat16(), language_model.tokenizer)
    site = lm.layer("mlp_out", 1)
    found = optimise(lm, REQUESTS[:2], CONTEXTS, [site], SETTINGS)
    assert found.delta[site].dtype == torch.float32 and found.finite.all()
    assert (found.losses[:, -1, 1] < found.losses[:, 0, 1]).all()


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1, got 0"),
        ("lr", 0.0, "lr must be more than 0, got 0.0"),
        ("clamp", -1.0, "clamp must be more than 0, got -1.0"),
        ("kl_factor", -0.1, "kl_factor must be at least 0, got -0.1"),
        ("weight_decay", -1, "weight_decay must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        Search(**{argument: value})


def test_a_site_in_no_block_is_refused(language_model):
    with pytest.raises(ValueError, match=r"sites \['transformer.wte'\] are in no block"):
        optimise(language_model, REQUESTS[:1], CONTEXTS, ["transformer.wte"], SETTINGS)


def test_a_site_that_takes_no_part_is_refused(language_model):
    sites = [language_model.layer("mlp_out", 1), "transformer.h.1.attn.attn_dropout"]
    with pytest.raises(ValueError, match=r"layers \['.*attn_dropout'\] take no part"):
        optimise(language_model, REQUESTS[:1], CONTEXTS, sites, SETTINGS)


# shared shifts


def test_requests_that_share_a_shift_take_the_step_of_their_summed_loss(exact):
    site, shared = exact.layer("mlp_out", 1), [7, 3, 7, 7, 0]
    found = optimise(exact, REQUESTS, CONTEXTS, [site], replace(SETTINGS, steps=2), 256, shared)
    for members in ([0, 2, 3], [1], [4]):
        delta = torch.zeros(32, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=SETTINGS.lr)
        sum(terms_by_hand(exact, REQUESTS[i], site, delta, SETTINGS)[0] for i in members).backward()
        adam.step()
        for i in members:
            torch.testing.assert_close(found.delta[site][i], delta.detach())
            terms = terms_by_hand(exact, REQUESTS[i], site, delta, SETTINGS)
            torch.testing.assert_close(found.losses[i, 1], terms.detach())


def test_shared_shifts_do_not_depend_on_the_batches(exact):
    site, shared = exact.layer("mlp_out", 1), [0, 1, 0, 0, 2]
    one, other = (
        optimise(exact, REQUESTS, CONTEXTS, [site], SETTINGS, rows, shared).delta[site]
        for rows in (256, 4)
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one[0], one[3], rtol=0, atol=0)


def test_those_who_share_a_shift_stop_together_when_their_mean_loss_is_low(exact):
    site, shared = exact.layer("mlp_out", 1), [0, 0, 1, 2, 3]
    free = replace(SETTINGS, stop_loss=0.0)
    totals = optimise(exact, REQUESTS, CONTEXTS, [site], free, 256, shared).losses[:2, :, 0]
    stop = float(totals.mean(0)[4])
    passes = next(i for i, mean in enumerate(totals.mean(0)) if mean <= stop) + 1
    assert passes < SETTINGS.steps and (totals[:, passes - 1] > stop).any()  # not of each
    found = optimise(
        exact, REQUESTS, CONTEXTS, [site], replace(SETTINGS, stop_loss=stop + 1e-9), 256, shared
    )
    assert (~found.losses[:2, :, 0].isnan()).sum(1).tolist() == [passes, passes]


# PMET's rule


@pytest.fixture(scope="module")
def foreseen(exact):
    """A request for what the model says anyway, after the bare prompt."""
    request = Request("Sweden country", "Sweden", "country")
    hidden = exact.hidden(exact.encode([request.prompt], None))
    assert exact.tokenizer.decode(exact.head(hidden[0, -1]).argmax()) == " country"
    return request


def test_what_the_model_says_anyway_stops_at_once_under_the_kl_rule(exact, foreseen):
    site = exact.layer("mlp_out", 1)
    settings = replace(SETTINGS, stop_loss=0.0, kl_stop=0.01)
    found = optimise(exact, [foreseen, REQUESTS[1]], CONTEXTS[:1], [site], settings)
    assert (~found.losses[..., 0].isnan()).sum(1).tolist() == [1, SETTINGS.steps]
    assert (found.delta[site][0] == 0).all()


def test_where_the_target_is_the_likeliest_the_likelihood_counts_a_tenth_from_the_next_pass(
    exact, foreseen
):
    site = exact.layer("mlp_out", 1)
    settings = replace(SETTINGS, steps=2, stop_loss=0.0)
    unended = replace(settings, kl_stop=0.0)
    object.__setattr__(unended, "kl_stop", -1.0)  # no divergence is so low: nothing stops
    plain, ruled = (
        optimise(exact, [foreseen, REQUESTS[1]], CONTEXTS[:1], [site], s).losses
        for s in (settings, unended)
    )
    expected = plain.clone()
    expected[0, 1, 0] -= 0.9 * plain[0, 1, 1]
    expected[0, 1, 1] *= 0.1
    torch.testing.assert_close(ruled, expected)
