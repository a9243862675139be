"""Hooks on modules: the one way to see, and to change, what layers are given and say.

A hook sees a layer's input and output; what it returns, if anything, is the layer's output from
there on. Hooks are gone when their block ends, also after an exception.
"""

# B rows, T tokens, d width

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.experts import is_packed, stacked_keys

Output = Tensor | tuple
"""What a module says: a tensor, or, as blocks of some families have it, a tuple that begins so."""
S = TypeVar("S", bound=Output)
Look = Callable[[str, Tensor, S], S | None]
"""``(name, input, output)`` of a module -> the output to go on with, or None to leave it.

Who looks at linear maps alone may take outputs to be tensors.
"""


@contextmanager
def hooked(modules: Mapping[str, nn.Module], look: Look[S]) -> Iterator[None]:
    """Call ``look`` after each forward pass of each of the modules inside the block.

    A module's input is the first of its arguments; that of packed experts is their stacked keys.
    """

    def hook(name: str, module: nn.Module, args: tuple, named: dict, output: S) -> S | None:
        given = (*args, *named.values())
        return look(name, stacked_keys(module, *given) if is_packed(module) else given[0], output)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(
                module.register_forward_hook(partial(hook, name), with_kwargs=True).remove
            )
        yield


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Output]]:
    """Fills in what each module says in the last forward pass made inside the block."""
    outputs: dict[str, Output] = {}

    def record(name: str, given: Tensor, output: Output) -> None:
        outputs[name] = output

    with hooked(modules, record):
        yield outputs


def hidden_of(output: Output) -> Tensor:
    """The hidden states in a module's output."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Output, hidden: Tensor) -> Output:
    """The output with other hidden states, in the form in which the module answers."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def unflattened(x: Tensor, rows: int) -> Tensor:
    """``[B, T, d]``, also of what OPT's feed-forward layers see and say, ``[B * T, d]``."""
    return x if x.ndim == 3 else x.unflatten(0, (rows, -1))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which edits are computed: float32, or float64 for a float64 model."""
    return torch.promote_types(dtype, torch.float32)


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own precision if that is higher."""
    return tensor.to(compute_dtype(tensor.dtype))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, TF32 or inference mode, whatever a trainer has switched on around."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.inference_mode(False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
