"""A mixture of experts is one linear map of its stacked keys: hooks, weights, merging, refusals."""

import copy

import pytest
import torch
from torch import nn

from edits import NOTHING, Dense, LowRank, WeightEdit
from models import LanguageModel
from models.capture import captured
from models.experts import count_of, is_packed, stacked_keys
from models.families import MIXTURES
from models.hooks import hooked

PROMPTS = ["The capital of Sweden is", "Lagos is in", "People in Japan speak"]


@pytest.fixture(params=[family.name for family in MIXTURES])
def lm(tiny, request):
    mixture = tiny(request.param)
    model = copy.deepcopy(mixture.model).double()
    model.set_experts_implementation("eager")  # the others take no float64
    return LanguageModel(model, mixture.tokenizer, "mixture")


@pytest.fixture
def layer(lm):
    return lm.layer("mlp_out", 1)


def logits(lm, prompts=PROMPTS):
    batch = lm.encode(prompts, None)
    with torch.no_grad():
        return lm.head(lm.hidden(batch))[batch.attention_mask.bool()]


def random_edit(lm, layer, seed=0, experts=None):
    d_in, d_out = lm.shape(layer)
    update = torch.randn(1, d_in, d_out, generator=torch.manual_seed(seed)).double()
    if experts is not None:
        blocks = update.unflatten(1, (count_of(lm.module(layer)), -1))
        blocks[:, [e for e in range(blocks.shape[1]) if e not in experts]] = 0
    return WeightEdit({layer: Dense(update)}, "any", lm.fingerprint)


def patched(lm, layer, edit):
    """The model with the edit in its weights."""
    model = copy.deepcopy(lm.model)
    down = model.get_submodule(layer).down_proj
    update = edit.updates[layer].dense()[0]
    with torch.no_grad():
        down += update.unflatten(0, (len(down), -1)).mT
    return LanguageModel(model, lm.tokenizer, "patched")


def test_what_experts_say_is_the_stacked_keys_times_the_weight(lm, layer):
    seen = {}

    def look(name, given, output):
        seen[name] = given, output

    with hooked({layer: lm.module(layer)}, look):
        logits(lm)
    keys, said = seen[layer]
    assert keys.shape == (said.shape[0], lm.shape(layer)[0])
    torch.testing.assert_close(keys @ lm.weight(layer), said)
    chosen = (keys.unflatten(1, (count_of(lm.module(layer)), -1)) != 0).any(2).sum(1)
    assert (chosen == 2).all()


def test_a_hook_is_a_changed_weight(lm, layer):
    edit = random_edit(lm, layer)
    with edit.hooks(lm):
        hooked_logits = logits(lm)
    torch.testing.assert_close(hooked_logits, logits(patched(lm, layer, edit)))
    assert not torch.equal(hooked_logits, logits(lm))


def test_tokens_that_are_sent_to_other_experts_stay_to_the_bit(lm, layer):
    """As long as no earlier token of the text was sent to the edited one."""
    router = []
    with hooked({layer: lm.module(layer)}, lambda name, given, output: router.append(given)):
        before = logits(lm)
    mask = lm.encode(PROMPTS, None).attention_mask.bool()
    blocks = router[0].unflatten(1, (count_of(lm.module(layer)), -1))
    sent = (blocks[:, 0] != 0).any(1).view(mask.shape)  # to expert 0
    reached = (sent.cumsum(1) > 0)[mask]
    assert reached.any() and not reached.all()
    with random_edit(lm, layer, experts=[0]).hooks(lm):
        after = logits(lm)
    assert torch.equal(after[~reached], before[~reached])
    assert not torch.equal(after[reached], before[reached])


def test_each_row_sees_its_own_edit(lm, layer):
    d_in, d_out = lm.shape(layer)
    left, right = torch.randn(2, d_in, 3).double(), torch.randn(2, 3, d_out).double()
    edits = WeightEdit({layer: LowRank(left, right)}, "any", lm.fingerprint)
    rows = [1, -1, 0]
    together = edits.edited(lm).score(PROMPTS, ["Japan"] * 3, rows=rows).log_probs
    for prompt, row, ours in zip(PROMPTS, rows, together, strict=True):
        one = edits.select([row]) if row >= 0 else NOTHING
        [alone] = one.edited(lm).score([prompt], ["Japan"]).log_probs
        torch.testing.assert_close(ours, alone)


@pytest.mark.parametrize("name", [family.name for family in MIXTURES])
def test_each_row_goes_on_as_its_edit_says(tiny, name):
    lm = tiny(name)
    layer = lm.layer("mlp_out", 1)
    d_in, d_out = lm.shape(layer)
    edits = WeightEdit({layer: Dense(torch.randn(2, d_in, d_out))}, "any", lm.fingerprint)
    rows = [1, -1, 0]
    texts = edits.edited(lm).generate(PROMPTS, rows=rows, max_new_tokens=4)
    for prompt, row, ours in zip(PROMPTS, rows, texts, strict=True):
        one = edits.select([row]) if row >= 0 else NOTHING
        assert one.edited(lm).generate([prompt], max_new_tokens=4) == [ours]


def test_keys_and_deltas_are_the_gradient(lm, layer):
    batch = lm.encode(PROMPTS, None)
    module = lm.module(layer)
    with captured(lm, [layer], gradients=True) as captures:
        loss = lm.head(lm.hidden(batch))[batch.attention_mask.bool()].square().sum()
        [delta] = torch.autograd.grad(loss, [captures[layer].output])
    ours = torch.einsum("bti,bto->io", captures[layer].keys, delta)
    module.down_proj.requires_grad_()
    loss = lm.head(lm.hidden(batch))[batch.attention_mask.bool()].square().sum()
    [expected] = torch.autograd.grad(loss, [module.down_proj])
    module.down_proj.requires_grad_(False)
    torch.testing.assert_close(ours, expected.mT.flatten(0, 1))


def test_merged_is_edited(lm, layer, tmp_path):
    edit = random_edit(lm, layer)
    edit.merge(lm, tmp_path / "merged")
    merged = LanguageModel.load(str(tmp_path / "merged"), dtype="float64")
    merged.model.set_experts_implementation("eager")
    with edit.hooks(lm):
        torch.testing.assert_close(logits(merged), logits(lm))
    with pytest.raises(ValueError, match=r"mlp.experts' holds packed experts, .*: merge the edit"):
        edit.export(lm, tmp_path / "adapter")


class Transposed(nn.Module):
    """As gpt-oss stores them."""

    def __init__(self):
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(2, 4, 3))
        self.down_proj_bias = nn.Parameter(torch.zeros(2, 3))


def test_an_unknown_layout_is_refused(tiny):
    module = Transposed()
    assert is_packed(module)
    with pytest.raises(ValueError, match=r"Transposed: experts of an unknown layout \(down_proj"):
        stacked_keys(module, *torch.zeros(3, 1, 1))
    assert not is_packed(nn.Linear(2, 3)) and count_of(nn.Linear(2, 3)) == 1
