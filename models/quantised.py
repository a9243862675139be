"""Weights of 8 and 4 bits: what they are stored in, and that their matrix is not at hand.

A quantised layer is still a linear map that is called like any other, so that hooks see what it is
given and says, and gradients flow through it. torchao keeps the weight as a tensor of several inner
ones, bitsandbytes as packed whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def is_quantised(weight: Tensor) -> bool:
    """Whether the weight's numbers are not those of the matrix."""
    return _is_wrapped(weight) or not weight.is_floating_point()


def inner_tensors(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What a weight is stored in, by name: itself, unless it is a tensor of several."""
    if not _is_wrapped(weight):
        yield name, weight
        return
    names, _ = cast(Any, weight).__tensor_flatten__()  # torch declares it for no tensor
    for part in names:
        yield from inner_tensors(f"{name}.{part}", getattr(weight, part))


def require_matrix(name: str, weight: Tensor) -> Tensor:
    """The weight, whose matrix is needed.

    Raises:
        ValueError: it is quantised.
    """
    if is_quantised(weight):
        raise ValueError(
            f"{name!r} is quantised ({type(weight.data).__name__}), and its matrix is needed here: "
            "take an editor that only hooks (ultraedit, lora, mend, malmen, in_context), or load "
            "the model in half precision"
        )
    return weight


def _is_wrapped(weight: Tensor) -> bool:
    return is_traceable_wrapper_subclass(weight) and not isinstance(weight, DTensor)
