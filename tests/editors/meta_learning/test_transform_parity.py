"""The network, the statistics and the losses give the numbers of the authors' code."""

import json

import pytest
import torch
from golden import assert_close, read

from editors.descent import means
from editors.meta_learning.losses import kl, nll
from editors.meta_learning.transform import Transform

FROZEN = (
    "mend_transform_frozen_fp32", "mend_transform_frozen_fp64", "mend_transform_rank_clipped_fp32",
    "mend_variant_delta_only_fp32", "mend_variant_no_norm_fp32", "mend_variant_not_combined_fp32",
    "mend_variant_one_sided_fp32", "mend_variant_one_sided_wide_in_fp32",
    "mend_variant_three_blocks_fp32", "mend_variant_unshared_fp32", "mend_variant_x_only_fp32",
    "mend_variant_xavier_fp32",
)  # fmt: skip
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def fill(transform, tensors):
    """Give a transform the authors' weights and statistics, as far as the file has them."""
    names = {"net": "both", "u_net": "key", "delta_net": "delta"}
    with torch.no_grad():
        for key, value in tensors.items():
            if not key.startswith("weights/") or "net." not in key:
                continue
            net, block, name = key.removeprefix("weights/").split(".")
            name = {"A": "a", "B": "b", "film_scale": "scale", "film_shift": "shift"}.get(
                name, name
            )
            getattr(transform.nets[names[net]][int(block[-1])], name).copy_(value)
        for side, normaliser in (
            ("u", transform.key_statistics), ("delta", transform.delta_statistics),
        ):  # fmt: skip
            if normaliser is not None and "weights/count" in tensors:
                normaliser.count.copy_(tensors["weights/count"][0].long())
                normaliser.mean.copy_(tensors[f"weights/{side}_mean"])
                # a file's m2 and std can differ in the eighth digit; the std was used
                std = tensors[f"weights/{side}_std"]
                normaliser.m2.copy_(std.square() * (normaliser.count - 1))
    return transform


def sides(settings):
    if settings["combine"] == "true":
        return "both"
    flags = {"x_only": "keys", "delta_only": "deltas", "one_sided": "smaller"}
    return next((side for flag, side in flags.items() if settings[flag] == "true"), "separate")


@pytest.mark.parametrize("name", FROZEN)
def test_pseudo_factors_with_frozen_statistics(golden, name):
    tensors, settings = read(golden, name)
    keys, deltas = tensors["inputs/u"], tensors["inputs/delta"]
    layers = int(settings["n_layers_sharing"])
    transform = Transform(
        int(settings["d_in"]), int(settings["d_out"]), max(layers, 1),
        rank=int(settings["rank"]), blocks=int(settings["n_hidden"]) + 1,
        init={"id": "identity"}.get(settings["init"], settings["init"]),
        sides=sides(settings), normalise=settings["norm"] == "true",
    ).to(keys.dtype)  # fmt: skip
    fill(transform, tensors)
    kept = (keys != 0).any(-1) & (deltas != 0).any(-1)
    assert torch.equal(kept, tensors["expected/kept_rows"])
    for layer in range(max(layers, 1)):
        prefix = f"expected/layer{layer}." if layers else "expected/"
        with torch.no_grad():
            pseudo_keys, pseudo_deltas = transform(keys[kept], deltas[kept], layer)
        assert_close(pseudo_keys, tensors[prefix + "u_tilde"], TOLERANCE[keys.dtype])
        assert_close(pseudo_deltas, tensors[prefix + "delta_tilde"], TOLERANCE[keys.dtype])
        gradient = pseudo_keys.T @ pseudo_deltas
        assert_close(gradient, tensors[prefix + "pseudo_gradient"], TOLERANCE[keys.dtype])


def test_online_statistics_call_by_call(golden):
    tensors, settings = read(golden, "mend_transform_online_fp32")
    widths = int(settings["d_in"]), int(settings["d_out"])
    transform = Transform(*widths, 2, rank=int(settings["rank"]))
    fill(transform, tensors)
    for call in ("call0", "call1", "call2", "eval_call"):
        keys, deltas = tensors[f"inputs/{call}.u"], tensors[f"inputs/{call}.delta"]
        kept = (keys != 0).any(-1) & (deltas != 0).any(-1)
        if call != "eval_call":
            transform.collect(keys[kept], deltas[kept])
        for side, ours in (("u", transform.key_statistics), ("delta", transform.delta_statistics)):
            assert ours.count == tensors[f"expected/{call}.count"].item()
            for statistic in ("mean", "std", "m2"):
                expected = tensors[f"expected/{call}.{side}_{statistic}"]
                assert_close(getattr(ours, statistic), expected, 1e-6)
        with torch.no_grad():
            pseudo = transform(keys[kept], deltas[kept], int(tensors[f"inputs/{call}.layer"]))
        assert_close(pseudo[0], tensors[f"expected/{call}.u_tilde"], 1e-6)
        assert_close(pseudo[1], tensors[f"expected/{call}.delta_tilde"], 1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize(
    "case", ["decoder_only", "seq2seq_shift", "seq2seq_no_shift", "classes", "binary"]
)
def test_likelihood(golden, dtype, case):
    tensors, settings = read(golden, f"mend_losses_{dtype}")
    logits, labels = tensors[f"inputs/{case}.logits"], tensors[f"inputs/{case}.labels"]
    tolerance = TOLERANCE[logits.dtype]
    if case == "binary":  # one logit against zero
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
        labels = labels[:, 0]
    if json.loads(settings["shift"])[case]:
        logits, labels = logits[:, :-1], labels[:, 1:]
    scored = labels != -100
    losses = nll(logits[scored], labels[scored])
    expected = {key: tensors[f"expected/{case}.{key}"] for key in ("nll", "log_prob", "prob")}
    assert len(losses) == tensors[f"expected/{case}.n_tokens"]
    assert_close(losses.mean(), expected["nll"], tolerance)
    assert_close(-losses.mean(), expected["log_prob"], tolerance)
    if case != "binary":  # there it is the probability of 1
        assert_close((-losses).exp().mean(), expected["prob"], tolerance)


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("case", ["kl_decoder_only", "kl_seq2seq", "kl_binary"])
def test_divergence(golden, dtype, case):
    tensors, _ = read(golden, f"mend_losses_{dtype}")
    before, after = (tensors[f"inputs/{case}.logits_{when}"] for when in ("before", "after"))
    if case == "kl_binary":
        before, after = (torch.cat([torch.zeros_like(x), x], -1) for x in (before, after))
        mask = torch.ones(len(before), dtype=torch.bool)
    else:
        mask = tensors[f"inputs/{case}.mask"].bool()
    tolerance = TOLERANCE[before.dtype]
    assert_close(kl(before[mask], after[mask]).mean(), tensors[f"expected/{case}"], tolerance)


def test_running_average_weighs_likelihood_by_tokens(golden):
    tensors, _ = read(golden, "mend_losses_fp64")
    losses, tokens = tensors["inputs/average.nll"], tensors["inputs/average.n_tokens"]
    per_token = losses.repeat_interleave(tokens.long())
    mean = means(per_token, torch.zeros(len(per_token), dtype=torch.long), 1)[0]
    assert_close(mean, tensors["expected/average.nll"], 1e-12)
    assert_close(mean.exp(), tensors["expected/average.perplexity"], 1e-12)
    assert_close(tensors["inputs/average.acc"].mean(), tensors["expected/average.acc"], 1e-12)
