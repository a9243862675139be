"""Reading and shifting what layers say at chosen tokens."""

# N rows, T tokens, n chosen tokens

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

from models.hooks import Output, hidden_of, hooked, unflattened, widened, with_hidden
from models.language_model import Batch, LanguageModel

ADDED = 1e-3
"""Largest relative error with which a site's output counts as added to the residual stream."""


class _AllSeenError(Exception):
    """Ends a forward pass whose remaining layers are not needed."""


def activations(
    language_model: LanguageModel, batch: Batch, layers: Sequence[str], rows: Tensor, at: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Input ``[n, d_in]`` and output ``[n, d_out]`` of each layer at tokens ``at`` of ``rows``.

    One forward pass without gradients that ends at the deepest of the layers.
    """

    def enough(*_) -> None:
        if len(values) == len(layers):
            raise _AllSeenError

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        texts = len(batch.input_ids)
        values = stack.enter_context(watched(language_model, layers, rows, at, texts))
        stack.enter_context(hooked(language_model.modules_of(layers), enough))
        stack.enter_context(suppress(_AllSeenError))
        language_model.hidden(batch)
    return values


@contextmanager
def watched(
    language_model: LanguageModel, layers: Sequence[str], rows: Tensor, at: Tensor, texts: int
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What `activations` returns, filled by a forward pass over ``texts`` texts inside."""
    values: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, given: Tensor, output: Output) -> None:
        pair = (unflattened(x, texts) for x in (given, hidden_of(output)))
        key, value = (widened(x[rows, at]) for x in pair)
        values[name] = key, value

    with hooked(language_model.modules_of(layers), look):
        yield values
    if missing := sorted(set(layers) - set(values)):
        raise ValueError(f"layers {missing} take no part in the forward pass")


def shifted(
    module: nn.Module, delta: Tensor, rows: Tensor, at: Tensor, texts: int
) -> AbstractContextManager[None]:
    """Adds ``delta``, ``[n, d]``, to the module's output at tokens ``at`` of ``rows``."""

    def shift(name: str, given: Tensor, output: Output) -> Output:
        hidden = hidden_of(output)
        changed = unflattened(hidden, texts).clone()
        changed[rows, at] = (widened(changed[rows, at]) + delta).to(hidden.dtype)
        return with_hidden(output, changed.view_as(hidden))

    return hooked({"": module}, shift)


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
    with shifted(language_model.module(site), shift, first, first, 1):
        after = activations(language_model, one, [block], first, first)[block][1]
    apart = (after - before[block][1] - shift).norm()
    return block if apart <= ADDED * shift.norm() else site
