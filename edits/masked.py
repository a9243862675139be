"""Residual matrices of which a prompt is shown some rows, if it is like one that was edited.

Wang et al., "MEMOIR: Lifelong Model Editing with Minimal Overwrite and Informed Retention for
LLMs", NeurIPS 2025, https://arxiv.org/abs/2506.07899. Beside a layer's weight stands a matrix for
all requests; which of its rows (of the layer's inputs) a request may use says a mask that is made
of its prompt. A prompt whose own mask shares enough with one of these is read with that one, any
other as if there were no matrix.
"""

# N edits, P requests of all of them, B rows, T tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from edits.edit import State
from edits.gate import GatedEdit
from edits.sides import mean_over
from edits.storage import Source
from edits.updates import Dense

FEATURES = ("mean", "last")
"""What of a layer's inputs is looked at: their mean over a prompt's tokens, or the last one's."""


def features(given: Tensor, prompt: Tensor, which: str) -> Tensor:
    """``[B, d_in]`` of inputs ``[B, T, d_in]`` at the tokens of prompts, ``[B, T]``."""
    if which == "last":
        prompt = prompt & (prompt.cumsum(1) == prompt.sum(1, keepdim=True))
    return mean_over(given, prompt[:, :, None])


@dataclass(frozen=True, eq=False)
class TopHash:
    """What makes a mask of a prompt: the places of its largest features, permuted.

    Attributes:
        permutation: of the layer's inputs, ``[d_in]``.
        background: what features are in the mean, ``[d_in]``; their excess over it counts.
        active: inputs that a mask lets through.
        which: see `FEATURES`.
    """

    permutation: Tensor
    background: Tensor
    active: int
    which: str = "mean"

    def masks(self, given: Tensor, prompt: Tensor) -> Tensor:
        """Bool ``[B, d_in]`` of inputs ``[B, T, d_in]`` at the tokens of prompts ``[B, T]``."""
        excess = features(given, prompt, self.which)
        excess = excess - self.background.to(excess)
        largest = excess.abs().topk(self.active, dim=1).indices
        mask = torch.zeros(excess.shape, dtype=torch.bool, device=excess.device)
        return mask.scatter(1, self.permutation.to(excess.device)[largest], True)


@dataclass(frozen=True, eq=False)
class Masked:
    """P parts: what matrices make of inputs of which a mask lets some through.

    Args:
        matrices: ``[N, d_in, d_out]``.
        masks: bool ``[P, d_in]``.
        owner: ``[P]``, each one's matrix.
    """

    matrices: Dense
    masks: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_in, d_out)``."""
        return self.matrices.shape

    def select(self, index: Tensor) -> Masked:
        """The parts at ``index``, with the matrices that they need."""
        used, owner = self.owner[index.to(self.owner.device)].unique(return_inverse=True)
        return Masked(self.matrices.select(used), self.masks[index.to(self.masks.device)], owner)

    def to(self, device: torch.device, dtype: torch.dtype) -> Masked:
        """The same parts there."""
        masks, owner = self.masks.to(device, dtype), self.owner.to(device)
        return Masked(self.matrices.to(device, dtype), masks, owner)

    def shared(self) -> Callable[[Tensor], Tensor]:
        """The map of the one part."""
        mask, apply = self.masks[0], self.matrices.shared()
        return lambda x: apply(x * mask)

    def rowwise(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The map ``[B, T, d_in] -> [B, T, d_out]`` in which row b sees part ``rows[b]``."""
        masks, apply = self.masks[rows][:, None], self.matrices.rowwise(self.owner[rows])
        return lambda x: apply(x * masks)


@dataclass(frozen=True, eq=False, repr=False)
class MaskedEdit(GatedEdit):
    """N edits, each a residual matrix of one layer and the masks of its requests.

    Args:
        matrices: ``[N, d_in, d_out]``.
        masks: bool ``[P, d_in]`` of all requests, edit by edit.
        prompts: of each edit's requests.
        hashing: what made the masks.
        overlap: share of a mask's inputs from which on a prompt is like a request.
        layer: linear map beside which the matrices stand.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.

    Raises:
        ValueError: they do not fit together.
    """

    kind = "masked"
    dtypes = MappingProxyType({"masks": torch.bool, "permutation": torch.int64})
    matrices: Tensor
    masks: Tensor
    prompts: tuple[tuple[str, ...], ...]
    hashing: TopHash
    overlap: float
    layer: str
    editor: str
    model: str

    def __post_init__(self):
        counts = len(self.prompts), sum(map(len, self.prompts))
        d_in = self.matrices.shape[1]
        fits = (len(self.matrices), *self.masks.shape) == (*counts, d_in)
        if not fits or {len(x) for x in (self.hashing.permutation, self.hashing.background)} != {
            d_in
        }:
            raise ValueError(
                f"{counts[0]} edits of {counts[1]} requests do not fit matrices "
                f"{list(self.matrices.shape)} and masks {list(self.masks.shape)}"
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def owner(self) -> Tensor:
        """The edit of each request, ``[P]``."""
        counts = torch.tensor([len(own) for own in self.prompts], device=self.masks.device)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    @property
    def parts(self) -> Masked:
        """What the matrices are to prompts that are like a request, request by request."""
        return Masked(Dense(self.matrices), self.masks, self.owner)

    def choose(self, given: Tensor, output: Tensor, prompt: Tensor, books: Tensor) -> Tensor:
        """The request that each row is most like, see `GatedEdit`."""
        own = self.hashing.masks(given, prompt)
        shared = own.to(given.dtype) @ self.masks.to(given).T / self.hashing.active  # [B, P]
        shared = shared.masked_fill(self.owner.to(books.device) != books[:, None], -1)
        most, request = shared.max(1)
        return torch.where(most >= self.overlap, request, -1)

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = [index] if isinstance(index, int) else torch.as_tensor(index).tolist()
        masks = self.masks.split([len(own) for own in self.prompts])
        return replace(
            self,
            matrices=self.matrices[index],
            masks=torch.cat([masks[n] for n in index]),
            prompts=tuple(self.prompts[n] for n in index),
        )

    def without(self, prompts: Sequence[str]) -> Self:
        """Refused.

        Raises:
            ValueError: in any case.
        """
        raise ValueError(
            f"requests of an edit of {self.editor} share the rows of its matrix, so that single "
            "ones cannot be taken out"
        )

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        return replace(self, matrices=self.matrices.to(device), masks=self.masks.to(device))

    def size(self, language_model: Any) -> dict[str, float]:
        """How many requests there are, how many numbers in matrices, and how long these are."""
        norm = float(self.matrices.double().square().sum().sqrt())
        numbers = {"numbers": float(self.matrices.numel()), "matrix_norm": norm}
        return {"requests": float(len(self.masks)), **numbers}

    def state(self) -> State:
        """The tensors, and all else as it is."""
        hashing = self.hashing
        tensors = {
            "matrices": self.matrices,
            "masks": self.masks,
            "permutation": hashing.permutation,
            "background": hashing.background,
        }
        header = {"layer": self.layer, "overlap": self.overlap, "prompts": self.prompts}
        return header | {"active": hashing.active, "which": hashing.which}, tensors

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of.

        Raises:
            ValueError: tensors do not fit together.
        """
        own = (tensors["permutation"], tensors["background"], header["active"], header["which"])
        hashing = TopHash(*own)
        prompts = tuple(tuple(own) for own in header["prompts"])
        return cls(
            tensors["matrices"],
            tensors["masks"],
            prompts,
            hashing,
            overlap=header["overlap"],
            layer=header["layer"],
            editor=source.owner.editor,
            model=source.owner.model,
        )
