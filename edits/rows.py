"""Which edit each row of a batch sees, and the map that adds it to a layer's output."""

# N edits, B rows of a batch, T tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edits.updates import Dense, LowRank
from models.hooks import unflattened


def shift_of(
    update: LowRank | Dense, rows: Tensor | None, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """The map from a layer's input to the addition to its output, with factors in place.

    Made once, called at every step of a generation. Only the edits that some row sees are moved to
    ``device``.

    Args:
        update: N edits of the layer.
        rows: ``[B]``, which edit each row sees, -1 for none: such rows get exact zeros. None: the
            one edit for all rows.
        device: where the layer lives.
        dtype: precision of the computation; the addition has the dtype of the input.

    Returns:
        A map ``[B, T, d_in] -> [B, T, d_out]``; inputs flattened to ``[B * T, d_in]``, as OPT's
        are, come back flattened.

    Raises:
        ValueError: the rows name an edit that does not exist, or None is said of several edits, or
            (when called) the input has another number of rows.
    """
    if rows is None:
        if len(update) != 1:
            raise ValueError(f"{len(update)} edits: rows must say which of them each row sees")
        return _in_precision(update.to(device, dtype).shared(), dtype)
    rows = checked_rows(rows, len(update))
    active = (rows >= 0).nonzero().flatten()
    used, where = rows[active].unique(return_inverse=True)
    selected = update if len(used) == len(update) else update.select(used)
    rowwise = selected.to(device, dtype).rowwise(where.to(device))
    if len(active) < len(rows):
        rowwise = _scattered(rowwise, active.to(device), update.shape[1])
    return _in_rows(_in_precision(rowwise, dtype), len(rows))


def checked_rows(rows: Tensor | Sequence[int], edits: int) -> Tensor:
    """``rows`` as a long tensor ``[B]`` on the CPU, each in ``[-1, edits)``.

    Raises:
        ValueError: it is not a list of whole numbers in that range.
    """
    rows = torch.as_tensor(rows).cpu()
    if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise ValueError(f"rows must be whole numbers [B], got {rows.dtype} {list(rows.shape)}")
    if len(rows) and not (rows.min() >= -1 and rows.max() < edits):
        raise ValueError(
            f"rows must lie in [-1, {edits}), got {int(rows.min())} to {int(rows.max())}"
        )
    return rows.long()


def check_one_each(prompts: Sequence[str], rows: Sequence[int] | Tensor) -> None:
    """Whether there is one row for each prompt.

    Raises:
        ValueError: there are more, or fewer.
    """
    if len(rows) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(rows)} rows; one row a prompt")


def _in_precision(
    apply: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """``apply`` in ``dtype``, also where a caller's autocast would say otherwise."""

    def precise(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return apply(x.to(dtype)).to(x.dtype)

    return precise


def _scattered(
    rowwise: Callable[[Tensor], Tensor], active: Tensor, d_out: int
) -> Callable[[Tensor], Tensor]:
    """``rowwise`` for the ``active`` rows, zeros for the others."""

    def scattered(x: Tensor) -> Tensor:
        zeros = x.new_zeros(*x.shape[:-1], d_out)
        return zeros.index_copy(0, active, rowwise(x[active])) if len(active) else zeros

    return scattered


def _in_rows(apply: Callable[[Tensor], Tensor], rows: int) -> Callable[[Tensor], Tensor]:
    """``apply`` with ``rows`` rows, unflattening ``[B * T, d]`` inputs for it."""

    def in_rows(x: Tensor) -> Tensor:
        if x.dim() == 2 and x.shape[0] % rows == 0:
            return apply(unflattened(x, rows)).flatten(0, 1)
        if x.dim() != 3 or x.shape[0] != rows:
            raise ValueError(f"{rows} rows were announced, but the layer saw {list(x.shape)}")
        return apply(x)

    return in_rows
