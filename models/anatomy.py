"""Which module of a model is what: blocks, layers by their role, linear maps by name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.experts import down_of, is_packed, weight_of
from models.families import Family, Linear, UnsupportedModel, linear, linear_shape
from models.quantised import require_matrix


class Anatomy(nn.Module):
    """A Hugging Face model and the names of its parts.

    Attributes:
        model: whose modules they are.
        family: says where blocks and layers are.
        name: of the model, for messages.
    """

    model: PreTrainedModel
    family: Family
    name: str

    @property
    def blocks(self) -> int:
        """Number of transformer blocks; of an encoder-decoder, the decoder's."""
        return len(self._stack(self.family.stack))

    @property
    def encoder_blocks(self) -> int:
        """Number of transformer blocks of the encoder; 0 if there is none."""
        encoder = self.family.encoder
        return 0 if encoder is None else len(self._stack(encoder))

    def _stack(self, name: str) -> nn.ModuleList:
        return cast(nn.ModuleList, self.model.get_submodule(name))

    def block(self, block: int, encoder: bool = False) -> str:
        """Module name of a transformer block.

        Raises:
            ValueError: no such block.
            UnsupportedModel: an encoder's block is asked for where there is no encoder.
        """
        if encoder and self.family.encoder is None:
            raise UnsupportedModel(f"{self.name!r} of family {self.family.name!r} has no encoder")
        count, kind = (self.encoder_blocks, "encoder block") if encoder else (self.blocks, "block")
        if not 0 <= block < count:
            raise ValueError(f"no {kind} {block} in {self.name!r}; it has 0 to {count - 1}")
        return self.family.block(block, encoder)

    def layer(self, role: str, block: int, encoder: bool = False) -> str:
        """Module name of the linear map that plays ``role`` in a block.

        Raises:
            ValueError: no such block, or the family has no such role.
            UnsupportedModel: an encoder's layer is asked for where there is no encoder.
        """
        self.block(block, encoder)
        return self.family.layer(role, block, encoder)

    def in_encoder(self, name: str) -> bool:
        """Whether the named module sees an encoder's tokens, those of the prompt."""
        return self.family.encoder is not None and name.startswith(f"{self.family.encoder}.")

    def require_decoder_only(self, what: str) -> None:
        """Refuse an encoder-decoder for ``what``, named at the start of the message.

        Raises:
            UnsupportedModel: it is one.
        """
        if self.family.encoder is not None:
            raise UnsupportedModel(
                f"{what} works on decoder-only models; {self.name!r} is an encoder-decoder of "
                f"family {self.family.name!r}"
            )

    def module(self, name: str) -> nn.Module:
        """The named module of the model.

        Raises:
            ValueError: no such module; names the nearest ones.
        """
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            names = [name for name, _ in self.model.named_modules()]
            near = ", ".join(get_close_matches(name, names, n=3, cutoff=0.0))
            kind = type(self.model).__name__
            raise ValueError(f"no layer {name!r} in {kind}; near: {near}") from None

    def modules_of(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """The named modules by name; see `module`."""
        return {name: self.module(name) for name in names}

    def linear(self, name: str) -> Linear:
        """The named linear map.

        Raises:
            ValueError: no such module, or it is no linear map.
        """
        return linear(self.module(name))

    def weight(self, name: str) -> Tensor:
        """The weight ``[d_in, d_out]`` of a linear map, whichever way it stores it.

        Raises:
            ValueError: no such module, or it is no linear map, or a quantised one.
        """
        if is_packed(self.module(name)):
            return weight_of(self.module(name))
        layer = self.linear(name)
        weight = require_matrix(name, layer.weight)
        return weight.T if isinstance(layer, nn.Linear) else weight

    def stored(self, name: str) -> Tensor:
        """The same numbers as they are stored, with their device and precision.

        Raises:
            ValueError: no such module, or it is no linear map.
        """
        module = self.module(name)
        return down_of(module) if is_packed(module) else self.linear(name).weight

    def bias(self, name: str) -> Tensor | None:
        """The bias ``[d_out]`` of a linear map, if it has one; errors as of `weight`."""
        return None if is_packed(self.module(name)) else self.linear(name).bias

    def shape(self, name: str) -> tuple[int, int]:
        """``(d_in, d_out)`` of a linear map.

        Raises:
            ValueError: no such module, or it is no linear map.
        """
        return linear_shape(self.module(name))
