"""BetaEdit: a null space that takes in the keys of earlier edits, and a price for leaving it.

2026, https://arxiv.org/abs/2605.09285. With C the second moment of keys of text, and H that of the
first t past keys, t a multiple of ``every``, the basis Q is that of ``(H / t + leak C) / (leak +
1)``, and each layer's update is ``Q (Q^T (K^T K + P^T P + leak C) Q + ridge I)^-1 Q^T K^T R``.

Departures: keys are those of the edited model, as AlphaEdit's are, theirs those before a layer is
written; the basis is taken anew at each writing, so that an edit decides all of the next one.
"""

# p past keys, d_in layer width

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from editors.locate_then_edit.statistics.coordinates import Factor, NullSpace, factor, null_space
from editors.settings import at_least, positive


@dataclass(frozen=True)
class Priced:
    """Coordinates of a null space in which a quadratic price is the squared length."""

    space: NullSpace
    price: Factor

    @property
    def width(self) -> int:
        """R."""
        return self.price.width

    def into(self, keys: Tensor) -> Tensor:
        """See `Coordinates.into`."""
        return self.price.into(self.space.into(keys))

    def back(self, rows: Tensor) -> Tensor:
        """See `Coordinates.back`."""
        return self.space.back(self.price.back(rows))


@dataclass(frozen=True)
class Refresh:
    """When past keys enter the null space, and what it costs to change outputs for text.

    Attributes:
        every: so many past keys enter at once.
        leak: weight of the second moment of text.

    Raises:
        ValueError: a setting is out of range.
    """

    every: int = 1000
    leak: float = 3000.0

    def __post_init__(self):
        at_least(1, every=self.every)
        positive(leak=self.leak)

    def coordinates(
        self, moment: Tensor, past: Tensor, threshold: float, ridge: float, layer: str
    ) -> Priced:
        """In which an update's price is its squared length.

        Args:
            moment: C, ``[d_in, d_in]``.
            past: keys ``[p, d_in]`` in the order in which they were written.
            threshold: eigenvalues below it count as zero.
            ridge: weight of the update's size.
            layer: for messages.
        """
        moment = moment.double()
        keys = past[: len(past) // self.every * self.every].to(moment)
        mixed = moment
        if len(keys):
            mixed = (keys.T @ keys / len(keys) + self.leak * moment) / (self.leak + 1)
        space = null_space(mixed, threshold, layer)
        price = self.leak * space.basis.T @ moment @ space.basis
        price.diagonal().add_(ridge)
        return Priced(space, factor((price + price.T) / 2, layer))
