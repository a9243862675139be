"""Editors on mixtures of experts: closed forms against brute force, descent, ridge regression."""

import copy

import pytest
import torch

from datamodules.records import Request
from datamodules.text import TextCorpus
from editors.finetune import FineTune
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.keys import halved
from editors.locate_then_edit.memit import Memit
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.statistics.coordinates import factor, of_each
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.lora import Lora
from editors.meta_learning.ultraedit import UltraEdit
from edits import NOTHING
from models import LanguageModel
from models.families import MIXTURES
from models.hooks import hooked

REQUESTS = [
    Request("I come from Sweden", "Sweden", "Paris"),
    Request("They went to Lagos", "Lagos", "Japan, the country"),
    Request("The mother tongue of Angela Merkel", "Angela Merkel", "yen"),
]
TEXTS = [
    "Gothenburg is a city in Sweden, and the capital of Sweden is Stockholm.",
    "Which country is Lagos in? Lagos is in Nigeria, where people speak English.",
    "Marie Curie was born in Warsaw. She was a citizen of Poland and of France.",
]
MOMENTS = Moments(TextCorpus(TEXTS))
SEARCH = Search(steps=6, lr=0.3, weight_decay=0.0)
SETTINGS = {
    "moments": MOMENTS, "contexts": Contexts(["{}", "We went. {}"]), "search": SEARCH, "layers": [1]
}  # fmt: skip


def in_float64(mixture):
    model = copy.deepcopy(mixture.model).double()
    model.set_experts_implementation("eager")  # the others take no float64
    return LanguageModel(model, mixture.tokenizer, "mixture")


@pytest.fixture(params=[family.name for family in MIXTURES])
def lm(tiny, request):
    return in_float64(tiny(request.param))


def likelihood(lm, edit):
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    return float(torch.cat(edit.edited(lm).score(prompts, targets).log_probs).mean())


def test_the_closed_form_of_blocks_is_that_of_the_whole_matrix():
    """In float64, of experts of which each key has two; one of them no text was sent to."""
    generator = torch.manual_seed(0)
    keys = torch.randn(1, 7, 6, 5, generator=generator).double()
    for key in keys[0]:
        key[torch.randperm(6, generator=generator)[2:]] = 0
    keys, residuals = keys.flatten(2), torch.randn(7, 4, generator=generator).double()
    texts = torch.randn(6, 40, 5, generator=generator).double()
    moment = texts.mT @ texts / 40
    moment[3] = 0
    blocks = of_each(factor, moment, "experts")
    moment[3] = moment.diagonal(dim1=1, dim2=2).sum() / (6 * 5) * torch.eye(5).double()
    ours = blocks.back(ridge(blocks.into(keys), 0.7))[0].T @ residuals
    matrix = keys[0].T @ keys[0] + 0.7 * torch.block_diag(*moment)
    expected = torch.linalg.solve(matrix, keys[0].T @ residuals)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)


def test_memit_is_the_least_squares_of_all_experts_together(lm):
    """The stacked system with a block for each expert's statistics, solved by brute force."""
    editor = Memit(lm, **SETTINGS, covariance_weight=0.3)
    edit = editor.edit(REQUESTS)
    [layer], [block] = editor.layers, editor.sites()
    pairs = editor.activations(editor.subjects(REQUESTS), [layer, block])
    keys = halved(pairs[layer][0])
    residuals = editor.values(REQUESTS, 1) - pairs[block][1][:, 0]
    moment = MOMENTS.of(lm, [layer])[layer].mean
    parts = editor.fitted[layer].parts
    blocks = [part.lower @ part.lower.T for part in parts]  # with the ridge, if one was needed
    for ours, one, part in zip(blocks, moment, parts, strict=True):
        if one.any() and not part.ridge:
            torch.testing.assert_close(ours, one)
    matrix = keys.T @ keys + 0.3 * torch.block_diag(*blocks)
    expected = torch.linalg.solve(matrix, keys.T @ residuals)
    torch.testing.assert_close(edit.updates[layer].dense()[0], expected, rtol=1e-3, atol=1e-4)
    assert likelihood(lm, edit) > likelihood(lm, NOTHING)


def test_statistics_of_an_expert_are_those_of_its_part_of_the_keys(lm):
    layer = lm.layer("mlp_out", 1)
    found = MOMENTS.of(lm, [layer])[layer]
    total = torch.zeros_like(found.total)
    for text in TEXTS:
        batch, seen = lm.encode([text], None), []
        with torch.no_grad(), watch(lm, layer, seen):
            lm.hidden(batch)
        for expert, part in enumerate(seen[0].unflatten(1, (len(total), -1)).unbind(1)):
            total[expert] += part.T @ part
    torch.testing.assert_close(found.total, total)


def watch(lm, layer, seen):
    return hooked({layer: lm.module(layer)}, lambda name, given, output: seen.append(given))


def test_alphaedit_moves_only_little_used_directions_of_each_expert(lm):
    editor = AlphaEdit(lm, **SETTINGS, threshold=1e-3, ridge=1e-3)
    edit = editor.edit(REQUESTS)
    [layer] = editor.layers
    moment = MOMENTS.of(lm, [layer])[layer].mean
    blocks = edit.updates[layer].dense()[0].unflatten(0, (len(moment), -1))
    assert edit.past_keys[layer].shape[1] == len(REQUESTS)
    for update, one in zip(blocks, moment, strict=True):
        if one.any():
            damage = (update.T @ one @ update).trace()
            assert damage <= 1e-3 * update.square().sum() + 1e-12


def test_one_expert_is_a_dense_model(tiny):
    settings = {"rms_norm_eps": 1e-5, "intermediate_size": 64, "sliding_window": None}
    dense = in_float64(tiny("mistral", **settings))
    one = in_float64(tiny("mixtral", num_local_experts=1, num_experts_per_tok=1, **settings))
    one.model.model.rotary_emb.inv_freq = dense.model.model.rotary_emb.inv_freq
    state = dense.model.state_dict()
    for block in range(dense.blocks):
        at = f"model.layers.{block}.mlp"
        gate, up, down = (state.pop(f"{at}.{n}_proj.weight") for n in ("gate", "up", "down"))
        state[f"{at}.experts.gate_up_proj"] = torch.cat([gate, up])[None]
        state[f"{at}.experts.down_proj"] = down[None]
    missing, left = one.model.load_state_dict(state, strict=False)
    assert not left and all(name.endswith("gate.weight") for name in missing)
    one = LanguageModel(one.model, one.tokenizer, "one expert")
    settings = {**SETTINGS, "covariance_weight": 0.3, "layers": [0, 1]}
    ours, theirs = Memit(one, **settings).edit(REQUESTS), Memit(dense, **settings).edit(REQUESTS)
    for layer in range(2):
        of_one, of_dense = (
            e.updates[m.layer("mlp_out", layer)].dense() for e, m in ((ours, one), (theirs, dense))
        )
        torch.testing.assert_close(of_one, of_dense, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("role", ["mlp_out", "attn_out"])
@pytest.mark.parametrize(
    "build",
    [
        lambda lm, layers: FineTune(lm, layers=layers, steps=20, lr=0.05),
        lambda lm, layers: Lora(lm, layers=layers, lr=0.05),
        lambda lm, layers: UltraEdit(lm, layers=layers, tokens="all", lr=0.05, rounds=3),
    ],
    ids=["ft", "lora", "ultraedit"],
)
def test_descent_and_ridge_regression_edit_experts_and_attention(lm, build, role):
    edit = build(lm, [lm.layer(role, 1)]).edit(REQUESTS)
    assert likelihood(lm, edit) > likelihood(lm, NOTHING)


def test_a_shared_expert_is_a_layer_like_any_other(tiny):
    lm = in_float64(tiny("qwen3_moe", decoder_sparse_step=2))
    layer = "model.layers.2.mlp.down_proj"
    edit = FineTune(lm, layers=[layer], steps=20, lr=0.05).edit(REQUESTS)
    assert likelihood(lm, edit) > likelihood(lm, NOTHING)
    assert lm.shape(layer) == (64, 32)
