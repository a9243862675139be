"""Which layers hypernetworks edit unless they are told."""

from __future__ import annotations

from models.language_model import LanguageModel


def default_layers(language_model: LanguageModel) -> list[str]:
    """MEND's: of the last three blocks, or of an encoder-decoder's last two on each side.

    In T5's gated feed-forwards it is the gate that is edited, beside ``mlp_out``.
    """
    if language_model.family.encoder is None:
        sides, roles = [(False, range(language_model.blocks)[-3:])], ("mlp_in", "mlp_out")
    else:
        counts = {True: language_model.encoder_blocks, False: language_model.blocks}
        sides = [(encoder, range(count)[-2:]) for encoder, count in counts.items()]
        gated = "mlp_gate" in language_model.family.roles
        roles = ("mlp_gate" if gated else "mlp_in", "mlp_out")
    return [
        language_model.layer(role, block, encoder)
        for encoder, blocks in sides
        for block in blocks
        for role in roles
    ]
