"""AlphaEdit: MEMIT restricted to directions that keys hardly use, for many edits in a row.

Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025,
https://arxiv.org/abs/2410.02355. With Q the eigenvectors of the second moment whose eigenvalues are
below a threshold, and P the keys of earlier edits, each layer's update is
``Q (Q^T (K^T K + P^T P) Q + ridge I)^-1 Q^T K^T R``. That is the paper's equation 14 with the
projection ``Q Q^T``, in the basis Q. Value, residuals and shares are MEMIT's. Keys of an edit are
taken again once all its layers are written; the edit carries them.

Departures from the authors' code: ``eigh`` in float64 instead of a float32 SVD, and a symmetric
solve; a later edit of the same subject is held back by the keys of the earlier one, as in theirs,
unless ``same_key`` is given.
With an ``anchor`` it is NAS, with a ``refresh`` BetaEdit.
See also `editors.locate_then_edit.spread`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from datamodules.records import Request
from editors.locate_then_edit.anchor import Anchor
from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.refresh import Refresh
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.spread import CONTEXTS, SEARCH, Spread
from editors.locate_then_edit.statistics.coordinates import Coordinates, null_space
from editors.locate_then_edit.statistics.moments import Moments
from editors.locate_then_edit.statistics.solve import ridge
from editors.settings import positive
from models.language_model import LanguageModel


class AlphaEdit(Spread):
    """Writes facts together, in the near null space of the keys of everything else.

    Args:
        language_model: the model to edit.
        moments: as in `Spread`, and so the next three.
        layers: see there.
        search: see there.
        contexts: see there.
        threshold: eigenvalues of the second moment below it count as zero. It is on the scale of
            the model's squared keys, so that no value suits all models.
        ridge: weight of the update's size; 1 in the paper, 10 in its code.
        same_key: see `Spread`.
        limit: see there.
        anchor: how long values are made; None: as the search finds them.
        refresh: when past keys enter the null space; None: they never do.
        rows_per_batch: see there.

    Raises:
        ValueError: an argument is not one of the above.
    """

    remembers = True

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        moments: Moments,
        layers: Sequence[int] | None = None,
        search: Search = SEARCH,
        contexts: Contexts = CONTEXTS,
        threshold: float = 0.02,
        ridge: float = 10.0,
        same_key: float | None = None,
        limit: Limit | None = None,
        anchor: Anchor | None = None,
        refresh: Refresh | None = None,
        rows_per_batch: int = 256,
    ):
        super().__init__(
            language_model,
            moments=moments,
            layers=layers,
            search=search,
            contexts=contexts,
            same_key=same_key,
            limit=limit,
            rows_per_batch=rows_per_batch,
        )
        positive(threshold=threshold, ridge=ridge)
        self.threshold = threshold
        self.ridge = ridge
        self.anchor = anchor
        self.refresh = refresh
        if anchor is not None:
            self.name = "nas"
        if refresh is not None:
            self.name = "betaedit"
        self._norm: float | None = None
        self._second: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """Also takes the anchor, once."""
        super().prepare()
        if self.anchor is not None and self._norm is None:
            self._norm = self.anchor.of(self)

    def fit(self, moment: Tensor, layer: str) -> Coordinates:
        """The basis Q of the little used directions."""
        if self.refresh is None:
            return null_space(moment, self.threshold, layer)
        self._second[layer] = moment
        return self.coordinates(layer, moment[:0])

    def coordinates(self, layer: str, past: Tensor) -> Coordinates:
        """Those of `fit`, or of what is refreshed by past keys."""
        if self.refresh is None or (len(past) < self.refresh.every and layer in self.fitted):
            return self.fitted[layer]
        moment = self._second[layer]
        return self.refresh.coordinates(moment, past, self.threshold, self.ridge, layer)

    def solve(self, keys: Tensor) -> Tensor:
        """``K (K^T K + ridge I)^-1``, past keys among K; the price may be in the coordinates."""
        return ridge(keys, self.ridge if self.refresh is None else 1.0)

    def target(self, values: Tensor, requests: Sequence[Request]) -> Tensor:
        """Of the anchor's length, if there is one."""
        if self.anchor is None or self._norm is None:
            return values
        return self.anchor.target(self, self._norm, values, requests)
