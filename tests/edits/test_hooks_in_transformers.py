"""Under an edit's hooks the model of transformers is the edited one, whatever it is asked for."""

import copy

import pytest
import torch
from random_edits import random_edit, written
from transformers import AutoModelForCausalLM, pipeline

from edits import NOTHING, ContextEdit
from models import LanguageModel

PROMPTS = ["Lagos is a city in", "Tokyo"]
WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.5, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beams without a cache": {"num_beams": 2, "use_cache": False},
}


@pytest.fixture(params=["gpt2", "llama"])
def edited(request, tiny):
    """A language model, an edit, and a copy with the edit in its weights."""
    language_model = tiny(request.param)
    edit = random_edit(language_model)
    return language_model, edit, written(language_model, edit)


def generated(language_model, **way):
    inputs = language_model.encode(PROMPTS[:1], None)
    torch.manual_seed(0)
    ids = language_model.model.generate(
        inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=8,
        pad_token_id=language_model.tokenizer.pad_token_id, **way,
    )  # fmt: skip
    return ids.tolist()


@pytest.mark.parametrize("way", WAYS)
def test_generation_is_that_of_changed_weights(edited, way):
    language_model, edit, changed = edited
    before = generated(language_model, **WAYS[way])
    with edit.hooks(language_model):
        inside = generated(language_model, **WAYS[way])
    assert inside == generated(changed, **WAYS[way]) != before
    assert generated(language_model, **WAYS[way]) == before


def test_a_pipeline(edited):
    language_model, edit, changed = edited
    texts = [
        pipeline("text-generation", model=each.model, tokenizer=each.tokenizer)
        for each in (language_model, changed)
    ]
    options = {"max_new_tokens": 6, "max_length": None, "do_sample": False}
    before = texts[0](PROMPTS, **options)
    with edit.hooks(language_model):
        inside = texts[0](PROMPTS, **options)
    assert inside == texts[1](PROMPTS, **options) != before


def test_a_model_with_a_device_map(edited, tmp_path):
    """Also where accelerate has put hooks of its own around each module."""
    accelerate = pytest.importorskip("accelerate")
    language_model, edit, changed = edited
    language_model.save(tmp_path / "model")
    placed = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu")
    placed = accelerate.dispatch_model(placed, {"": "cpu"}, main_device="cpu", force_hooks=True)
    same = LanguageModel(placed, copy.deepcopy(language_model.tokenizer))
    before = generated(same)
    with edit.hooks(same):
        assert generated(same) == generated(changed) != before


def test_an_edit_that_has_to_see_the_prompts_says_so(language_model):
    for kind in (ContextEdit, type(NOTHING)):
        edit = object.__new__(kind)
        object.__setattr__(edit, "editor", "ike")
        with pytest.raises(ValueError, match="edit of ike has to see the prompts; ask the model"):
            edit.hooks(language_model)
