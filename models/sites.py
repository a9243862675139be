"""Reading and shifting what layers say at chosen tokens."""

# N rows, T tokens, n chosen tokens

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn

from models.language_model import Batch, LanguageModel

ADDED = 1e-3
"""Largest relative error with which a site's output counts as added to the residual stream."""


class _AllSeenError(Exception):
    """Ends a forward pass whose remaining layers are not needed."""


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


def hidden_of(output: Tensor | tuple) -> Tensor:
    """The hidden states in a module's output; the blocks of some families return a tuple."""
    return output[0] if isinstance(output, tuple) else output


def unflattened(tensor: Tensor, tokens: int) -> Tensor:
    """``[N, T, d]``, also of what OPT's feed-forward layers see and say, ``[N * T, d]``."""
    return tensor if tensor.ndim == 3 else tensor.unflatten(0, (-1, tokens))


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own precision if that is higher."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def activations(
    language_model: LanguageModel, batch: Batch, layers: Sequence[str], rows: Tensor, at: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Input ``[n, d_in]`` and output ``[n, d_out]`` of each layer at tokens ``at`` of ``rows``.

    One forward pass without gradients that ends at the deepest of the layers.
    """

    def enough(*_) -> None:
        if len(seen) == len(layers):
            raise _AllSeenError

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        tokens = batch.input_ids.shape[1]
        seen = stack.enter_context(watched(language_model, layers, rows, at, tokens))
        for name in layers:
            hook = language_model.module(name).register_forward_hook(enough)
            stack.callback(hook.remove)
        stack.enter_context(suppress(_AllSeenError))
        language_model.hidden(batch)
    return seen


@contextmanager
def watched(
    language_model: LanguageModel, layers: Sequence[str], rows: Tensor, at: Tensor, tokens: int
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What `activations` returns, filled by a forward pass of texts of ``tokens`` inside."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        pair = (unflattened(x, tokens) for x in (args[0], hidden_of(output)))
        given, said = (widened(x[rows, at]) for x in pair)
        seen[name] = given, said

    with ExitStack() as stack:
        for name in layers:
            hook = language_model.module(name).register_forward_hook(partial(look, name))
            stack.callback(hook.remove)
        yield seen
    if missing := sorted(set(layers) - set(seen)):
        raise ValueError(f"layers {missing} take no part in the forward pass")


@contextmanager
def shifted(module: nn.Module, delta: Tensor, rows: int, tokens: int) -> Iterator[None]:
    """Adds ``delta``, ``[N, d]``, to the module's output at the first of each row's tokens."""

    def shift(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        hidden = hidden_of(output)
        changed = hidden.view(rows, tokens, -1).clone()
        changed[:, 0] = (widened(changed[:, 0]) + delta).to(hidden.dtype)
        changed = changed.view_as(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hook = module.register_forward_hook(shift)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def place_of(language_model: LanguageModel, site: str, batch: Batch) -> str:
    """Where a shift of ``site`` can be added with the same effect: its block, or itself.

    If all that a block does with a site's output is to add it to the residual stream, shifting what
    the block says is the same, and the block need not be run again. Whether it does is tried on the
    first token of a batch, since norms behind the addition (OPT-350m's) or factors of it differ.
    """
    number = language_model.family.block_of(site)
    block = None if number is None else language_model.block(number)
    if block in (None, site):
        return site
    one, first = batch.rows([0]), torch.zeros(1, dtype=torch.long, device=batch.input_ids.device)
    before = activations(language_model, one, [site, block], first, first)
    shift = before[site][1]
    with shifted(language_model.module(site), shift, *one.input_ids.shape):
        after = activations(language_model, one, [block], first, first)[block][1]
    apart = (after - before[block][1] - shift).norm()
    return block if apart <= ADDED * shift.norm() else site
