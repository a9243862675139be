"""Layers of 8 and 4 bits are edited by hooks; what needs their matrix says so."""

import copy

import pytest
import torch

from datamodules.records import Request
from editors.finetune import FineTune
from editors.lora import Lora
from editors.meta_learning.ultraedit import UltraEdit
from edits import NOTHING, load
from models import LanguageModel

torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

REQUESTS = [
    Request("I come from Sweden", "Sweden", "Paris"),
    Request("They went to Lagos", "Lagos", "Japan, the country"),
]


@pytest.fixture(scope="module")
def lm(tiny):
    whole = tiny("llama")
    model = copy.deepcopy(whole.model)
    torchao.quantize_(model.model.layers, torchao.Int8WeightOnlyConfig())
    return LanguageModel(model, whole.tokenizer, "int8")


def likelihood(lm, edit):
    prompts, targets = [r.prompt for r in REQUESTS], [r.target for r in REQUESTS]
    return float(torch.cat(edit.edited(lm).score(prompts, targets).log_probs).mean())


def test_another_precision_is_another_model(tiny, lm):
    assert lm.fingerprint != tiny("llama").fingerprint
    again = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, "again")
    assert again.fingerprint == lm.fingerprint


@pytest.mark.parametrize("editor", ["ultraedit", "lora"])
def test_hooks_edit_it(lm, editor, tmp_path):
    layers = [lm.layer("mlp_out", 1)]
    before = lm.fingerprint
    made = {
        "ultraedit": lambda: UltraEdit(lm, layers=layers, tokens="all", lr=0.02, rounds=3),
        "lora": lambda: Lora(lm, layers=layers, lr=0.05),
    }[editor]()
    edit = made.edit(REQUESTS)
    assert likelihood(lm, edit) > likelihood(lm, NOTHING) + 0.1
    edit.save(tmp_path / "edit.safetensors")
    assert likelihood(lm, load(tmp_path / "edit.safetensors", lm)) == likelihood(lm, edit)
    assert LanguageModel(lm.model, lm.tokenizer, "after").fingerprint == before
    assert set(edit.size(lm)) == {"update_norm"}


def test_what_needs_the_matrix_says_so(lm, tmp_path):
    layers = [lm.layer("mlp_out", 1)]
    named = r"'model.layers.1.mlp.down_proj' is quantised \(Int8Tensor\)"
    with pytest.raises(ValueError, match=named):
        FineTune(lm, layers=layers).edit(REQUESTS)
    edit = UltraEdit(lm, layers=layers, tokens="all").edit(REQUESTS)
    with pytest.raises(ValueError, match=named):
        edit.merge(lm, tmp_path / "merged")
