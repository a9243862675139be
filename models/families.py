"""Architecture families: which module of a Hugging Face model is what.

Everything that differs between architectures stands here and is chosen by ``config.model_type``
alone; a family joins by one entry in ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Family:
    """The module names that models of one ``model_type`` share.

    Attributes:
        name: Hugging Face's ``config.model_type``.
        stack: Name of the list of transformer blocks.
        roles: Linear maps inside a block, by what they do: ``mlp_in`` (``mlp_gate`` beside it in
            gated feed-forwards), ``mlp_out``, ``attn_out``.
        attentions: Attention implementations that the architecture has.
    """

    name: str
    stack: str
    roles: Mapping[str, str]
    attentions: tuple[str, ...] = ("eager", "sdpa")

    def block(self, block: int) -> str:
        """Module name of a transformer block."""
        return f"{self.stack}.{block}"

    def layer(self, role: str, block: int) -> str:
        """Module name of the linear map that plays ``role`` in a block.

        Raises:
            ValueError: the family has no such role.
        """
        if role not in self.roles:
            known = ", ".join(self.roles)
            raise ValueError(f"no role {role!r} in family {self.name!r}; it has: {known}")
        return f"{self.block(block)}.{self.roles[role]}"


def _roles(**paths: str) -> Mapping[str, str]:
    return MappingProxyType(paths)


_GATED = _roles(
    mlp_in="mlp.up_proj",
    mlp_gate="mlp.gate_proj",
    mlp_out="mlp.down_proj",
    attn_out="self_attn.o_proj",
)

FAMILIES = (
    Family(
        "gpt2",
        "transformer.h",
        _roles(mlp_in="mlp.c_fc", mlp_out="mlp.c_proj", attn_out="attn.c_proj"),
    ),
    Family(
        "gptj",
        "transformer.h",
        _roles(mlp_in="mlp.fc_in", mlp_out="mlp.fc_out", attn_out="attn.out_proj"),
        attentions=("eager",),
    ),
    Family(
        "gpt_neox",
        "gpt_neox.layers",
        _roles(mlp_in="mlp.dense_h_to_4h", mlp_out="mlp.dense_4h_to_h", attn_out="attention.dense"),
    ),
    Family(
        "opt",
        "model.decoder.layers",
        _roles(mlp_in="fc1", mlp_out="fc2", attn_out="self_attn.out_proj"),
    ),
    Family("llama", "model.layers", _GATED),
    Family("mistral", "model.layers", _GATED),
    Family("qwen2", "model.layers", _GATED),
    Family("qwen3", "model.layers", _GATED),
    Family("gemma", "model.layers", _GATED),
)


def family_of(config: PreTrainedConfig | Mapping) -> Family:
    """The family of a model's configuration, or of the contents of its ``config.json``.

    Raises:
        ValueError: the ``model_type`` belongs to no known family.
    """
    model_type = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    for family in FAMILIES:
        if family.name == model_type:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(f"unknown model family {model_type!r}; known families: {known}")


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(d_in, d_out)`` of a linear map; its type decides, never the shape of its weight.

    ``Linear`` stores ``[d_out, d_in]``, GPT-2's ``Conv1D`` stores ``[d_in, d_out]``.

    Raises:
        ValueError: the module is neither of the two.
    """
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    raise ValueError(f"expected a linear map (Linear or Conv1D), got {type(module).__name__}")
