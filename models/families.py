"""Architecture families: which module of a Hugging Face model is what.

Everything that differs between architectures stands here and is chosen by the configuration alone,
by its ``model_type``; a family joins by one entry in ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from models.experts import is_packed, shape_of

Linear = nn.Linear | Conv1D
"""``Linear`` stores ``[d_out, d_in]``, GPT-2's ``Conv1D`` stores ``[d_in, d_out]``."""


class UnsupportedModel(ValueError):
    """What was asked for is not defined for a language model of this kind."""


def plain_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits ``[..., V]`` of hidden states ``[..., d]``, as the output head makes them."""
    head = model.get_output_embeddings()
    assert head is not None
    return head(hidden)


def t5_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """As `plain_logits`; T5 before version 1.1 shrinks the states first."""
    if model.config.scale_decoder_outputs:
        hidden = hidden * model.config.d_model**-0.5
    return plain_logits(model, hidden)


def bart_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """As `plain_logits`, with BART's bias, which is no part of its head."""
    return plain_logits(model, hidden) + model.get_buffer("final_logits_bias")[0]


@dataclass(frozen=True)
class Family:
    """The module names that models of one ``model_type`` share.

    Attributes:
        name: Hugging Face's ``config.model_type``; ``t5_gated`` for T5 from version 1.1 on.
        stack: Name of the list of transformer blocks; of an encoder-decoder, the decoder's.
        roles: Linear maps inside a block, by what they do: ``mlp_in`` (``mlp_gate`` beside it in
            gated feed-forwards), ``mlp_out``, ``attn_out``.
        attentions: Attention implementations that the architecture has.
        encoder: Name of the list of the encoder's blocks; None for a decoder-only model.
        encoder_roles: Linear maps inside a block of the encoder.
        relative: Whether positions are relative, so that texts may be of any length.
        logits: ``(model, hidden states [..., d])`` -> logits ``[..., V]``.
    """

    name: str
    stack: str
    roles: Mapping[str, str]
    attentions: tuple[str, ...] = ("eager", "sdpa")
    encoder: str | None = None
    encoder_roles: Mapping[str, str] = field(default_factory=dict)
    relative: bool = False
    logits: Callable[[PreTrainedModel, Tensor], Tensor] = plain_logits

    def block(self, block: int, encoder: bool = False) -> str:
        """Module name of a transformer block."""
        return f"{self.encoder if encoder else self.stack}.{block}"

    def layer(self, role: str, block: int, encoder: bool = False) -> str:
        """Module name of the linear map that plays ``role`` in a block.

        Raises:
            ValueError: the family has no such role.
        """
        roles = self.encoder_roles if encoder else self.roles
        if role not in roles:
            known = ", ".join(roles)
            raise ValueError(f"no role {role!r} in family {self.name!r}; it has: {known}")
        return f"{self.block(block, encoder)}.{roles[role]}"

    def block_of(self, name: str) -> int | None:
        """Number of the block that the named module is, or is in; None: none of the decoder's."""
        inside = name.removeprefix(f"{self.stack}.")
        return None if inside == name else int(inside.split(".")[0])


def _roles(**paths: str) -> Mapping[str, str]:
    return MappingProxyType(paths)


_GATED = _roles(
    mlp_in="mlp.up_proj",
    mlp_gate="mlp.gate_proj",
    mlp_out="mlp.down_proj",
    attn_out="self_attn.o_proj",
)


def _t5(name: str, **feed_forward: str) -> Family:
    """T5's blocks are lists of sublayers: attention, in the decoder cross attention, the MLP."""
    paths = {role: f"DenseReluDense.{path}" for role, path in feed_forward.items()}
    encoder, decoder = (
        _roles(
            attn_out="layer.0.SelfAttention.o", **{r: f"layer.{at}.{p}" for r, p in paths.items()}
        )
        for at in (1, 2)
    )
    return Family(
        name,
        "decoder.block",
        decoder,
        encoder="encoder.block",
        encoder_roles=encoder,
        relative=True,
        logits=t5_logits,
    )


_BART = _roles(mlp_in="fc1", mlp_out="fc2", attn_out="self_attn.out_proj")

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
    _t5("t5", mlp_in="wi", mlp_out="wo"),
    _t5("t5_gated", mlp_in="wi_1", mlp_gate="wi_0", mlp_out="wo"),
    Family(
        "bart",
        "model.decoder.layers",
        _BART,
        encoder="model.encoder.layers",
        encoder_roles=_BART,
        logits=bart_logits,
    ),
)

MIXTURES = tuple(
    Family(name, "model.layers", _roles(mlp_out="mlp.experts", attn_out="self_attn.o_proj"))
    for name in ("mixtral", "qwen3_moe")
)
"""Families whose feed-forward is a mixture of experts; see `models.experts`."""


def family_of(config: PreTrainedConfig | Mapping) -> Family:
    """The family of a model's configuration, or of the contents of its ``config.json``.

    Raises:
        ValueError: the ``model_type`` belongs to no known family.
    """
    if isinstance(config, Mapping):
        model_type, gated = config.get("model_type"), "gated" in config.get("feed_forward_proj", "")
    else:
        model_type = config.model_type
        gated = model_type == "t5" and config.is_gated_act
    name = "t5_gated" if model_type == "t5" and gated else model_type
    for family in (*FAMILIES, *MIXTURES):
        if family.name == name:
            return family
    known = ", ".join(family.name for family in (*FAMILIES, *MIXTURES))
    raise ValueError(f"unknown model family {model_type!r}; known families: {known}")


def linear(module: nn.Module) -> Linear:
    """The module, which is a linear map.

    Raises:
        ValueError: it is none.
    """
    if isinstance(module, nn.Linear | Conv1D):
        return module
    raise ValueError(f"expected a linear map (Linear or Conv1D), got {type(module).__name__}")


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(d_in, d_out)`` of a linear map; its type decides, never the shape of its weight.

    Packed experts are one, of their stacked keys.

    Raises:
        ValueError: the module is no linear map.
    """
    if is_packed(module):
        return shape_of(module)
    module = linear(module)
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.nx, module.nf
