"""A mixture of experts as one linear map, so that it is edited like any other layer.

transformers packs a layer's experts into one module: ``gate_up_proj`` ``[E, 2 f, d]`` and
``down_proj`` ``[E, d, f]``. What it says of a token is ``sum_j g_j W_j k_j`` over the experts j
that the router has chosen, with their shares g and inner activations k. That is one linear map
``[E f, d]`` of the stacked key ``[g_1 k_1, ..., g_E k_E]``, in which experts that were not chosen
are zeros: whatever edits a linear map given its keys edits the experts so, and the router never.
"""

# n tokens, E experts, s of them chosen, f inner width, d width

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn


def is_packed(module: nn.Module) -> bool:
    """Whether it holds the weights of several experts, in whatever layout."""
    down = dict(module.named_parameters(recurse=False)).get("down_proj")
    return down is not None and down.ndim == 3


def down_of(module: nn.Module) -> Tensor:
    """The experts' second projections as they are stored, ``[E, d, f]``.

    Raises:
        ValueError: the experts are laid out otherwise, as gpt-oss's are.
    """
    own = dict(module.named_parameters(recurse=False))
    down = own["down_proj"]
    experts, d, f = down.shape
    known = own.keys() == {"down_proj", "gate_up_proj"}
    if not known or own["gate_up_proj"].shape != (experts, 2 * f, d):
        shapes = ", ".join(f"{name} {list(weight.shape)}" for name, weight in own.items())
        raise ValueError(
            f"{type(module).__name__}: experts of an unknown layout ({shapes}); expected down_proj "
            "[E, d, f] and gate_up_proj [E, 2f, d] alone: edit attention or a shared expert instead"
        )
    return down


def count_of(module: nn.Module) -> int:
    """E, of packed experts; 1 of another layer."""
    return len(down_of(module)) if is_packed(module) else 1


def shape_of(module: nn.Module) -> tuple[int, int]:
    """``(E f, d)``; errors as of `down_of`."""
    experts, d, f = down_of(module).shape
    return experts * f, d


def weight_of(module: nn.Module) -> Tensor:
    """``[E f, d]``, a copy; errors as of `down_of`."""
    return down_of(module).mT.flatten(0, 1)


def stacked_keys(module: nn.Module, hidden: Tensor, index: Tensor, shares: Tensor) -> Tensor:
    """The stacked keys ``[n, E f]`` of tokens ``[n, d]``, given what their router says.

    Args:
        module: the experts.
        hidden: ``[n, d]``, what they read.
        index: ``[n, s]``, which experts were chosen.
        shares: ``[n, s]``, and how much each of them counts.
    """
    down = down_of(module)
    experts, _, f = down.shape
    first = cast(Tensor, module.gate_up_proj)
    gate = cast(Callable[[Tensor], Tensor], module._apply_gate)
    stacked = hidden.new_zeros(len(hidden), experts, f)
    for expert in index.unique().tolist():
        if expert >= experts:  # of processes that hold other experts
            continue
        token, place = (index == expert).nonzero(as_tuple=True)
        inner = gate(nn.functional.linear(hidden[token], first[expert]))
        share = shares[token, place, None].to(inner.dtype)
        stacked[token, expert] = share * inner
    return stacked.flatten(1)
