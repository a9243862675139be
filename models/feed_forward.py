"""The feed-forward part of a block: which layers it begins and ends with, and its activation."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from models.language_model import LanguageModel

_ACTIVATIONS = ("dense_act_fn", "activation_function", "hidden_activation", "hidden_act")


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of a decoder's block.

    Attributes:
        given: name of a layer that sees what the part is given.
        layer: name of the layer whose output is the part's.
        activation: its name in ``transformers``.
        gated: whether what is activated multiplies a second linear map of the input.
    """

    given: str
    layer: str
    activation: str
    gated: bool


def feed_forward(language_model: LanguageModel, block: int) -> FeedForward:
    """That of a block of a decoder-only model or of a decoder.

    Raises:
        ValueError: no such block, or an activation that is unknown.
    """
    return FeedForward(
        language_model.layer("mlp_in", block),
        language_model.layer("mlp_out", block),
        _activation(language_model.model.config),
        "mlp_gate" in language_model.family.roles,
    )


def _activation(config: PreTrainedConfig) -> str:
    names = (getattr(config, name, None) for name in _ACTIVATIONS)
    name = next((name for name in names if name is not None), None)
    if name is None or name not in ACT2FN:
        raise ValueError(f"activation {name!r} of the model is none that transformers knows")
    return name
