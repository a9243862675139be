"""Every family names the modules of its models rightly."""

import pytest
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from models.families import FAMILIES, family_of, linear_shape

GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma")


def test_every_family_has_a_tiny_model(tiny):
    for family in FAMILIES:
        assert tiny(family.name).family is family


def test_roles_are_linear_maps_of_each_block(any_family):
    for block in range(any_family.blocks):
        shapes = {role: any_family.shape(any_family.layer(role, block)) for role in
                  any_family.family.roles}  # fmt: skip
        gate = {"mlp_gate": (32, 64)} if any_family.family.name in GATED else {}
        assert shapes == {"mlp_in": (32, 64), "mlp_out": (64, 32), "attn_out": (32, 32), **gate}


def test_every_linear_map_of_the_feed_forward_has_a_role(any_family):
    lm = any_family
    linear = {
        name
        for name, module in lm.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and 64 in linear_shape(module)
    }
    roles = [role for role in lm.family.roles if role.startswith("mlp")]
    assert linear == {lm.layer(role, block) for role in roles for block in range(lm.blocks)}


def test_a_module_knows_its_block(any_family):
    family = any_family.family
    assert family.block_of(family.block(12)) == 12
    assert family.block_of(family.layer("mlp_out", 2)) == 2
    assert family.block_of("lm_head") is None
    assert family.block_of(family.stack) is None


def test_only_gpt2_stores_its_weights_the_other_way_round(any_family):
    weight = any_family.module(any_family.layer("mlp_out", 0)).weight
    assert tuple(weight.shape) == ((64, 32) if any_family.family.name == "gpt2" else (32, 64))


def test_module_type_decides_the_orientation():
    assert linear_shape(nn.Linear(3, 5)) == (3, 5)
    assert linear_shape(Conv1D(nf=5, nx=3)) == (3, 5)


def test_what_is_not_linear_is_refused():
    with pytest.raises(ValueError, match=r"expected a linear map .*, got LayerNorm"):
        linear_shape(nn.LayerNorm(4))


def test_the_model_type_alone_decides():
    assert family_of({"model_type": "opt", "architectures": ["GPT2LMHeadModel"]}).name == "opt"
    assert family_of(AutoConfig.for_model("gemma")).name == "gemma"


@pytest.mark.parametrize("config", [{"model_type": "mamba"}, {}])
def test_an_unknown_family_lists_the_known_ones(config):
    with pytest.raises(ValueError, match=r"unknown model family .*; known families: gpt2, gptj"):
        family_of(config)


def test_a_role_that_the_family_lacks_lists_those_it_has(language_model):
    with pytest.raises(ValueError, match=r"no role 'mlp_gate' in family 'gpt2'; it has: mlp_in"):
        language_model.layer("mlp_gate", 0)


@pytest.mark.parametrize("block", [-1, 3])
def test_a_block_out_of_range(language_model, block):
    with pytest.raises(ValueError, match=rf"no block {block} in 'tiny-gpt2'; it has 0 to 2"):
        language_model.layer("mlp_out", block)
    with pytest.raises(ValueError, match="no block"):
        language_model.block(block)


def test_an_unknown_module_names_near_ones(language_model):
    with pytest.raises(ValueError, match=r"no layer 'transformer.h.0.mlp.c_prj'.*h.0.mlp.c_proj"):
        language_model.module("transformer.h.0.mlp.c_prj")
