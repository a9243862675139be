"""AnyEdit: AlphaEdit for long targets, window by window.

Jiang et al., "AnyEdit: Edit Any Knowledge Encoded in Language Models", ICML 2025,
https://arxiv.org/abs/2502.05628. Departures from the authors' code: see
`editors.locate_then_edit.search.windows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from editors.editor import Group
from editors.locate_then_edit.alphaedit import AlphaEdit
from editors.locate_then_edit.anchor import Anchor
from editors.locate_then_edit.limits import Limit
from editors.locate_then_edit.refresh import Refresh
from editors.locate_then_edit.search.contexts import Contexts
from editors.locate_then_edit.search.search import Search
from editors.locate_then_edit.search.windows import windows
from editors.locate_then_edit.spread import CONTEXTS, SEARCH
from editors.locate_then_edit.statistics.moments import Moments
from editors.settings import at_least
from models.language_model import LanguageModel


class AnyEdit(AlphaEdit):
    """Writes a target's windows one after another, those of all requests together.

    Args:
        language_model: the model to edit.
        moments: as in `AlphaEdit`, and so the next ones.
        layers: see there.
        search: see there.
        contexts: see there.
        threshold: see there.
        ridge: see there.
        same_key: see there.
        limit: see there.
        anchor: see there.
        refresh: see there.
        rows_per_batch: see there.
        window: tokens of a target that one value is to decide, at most.

    Raises:
        ValueError: an argument is not one of the above.
    """

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
        window: int = 40,
    ):
        super().__init__(
            language_model,
            moments=moments,
            layers=layers,
            search=search,
            contexts=contexts,
            threshold=threshold,
            ridge=ridge,
            same_key=same_key,
            limit=limit,
            anchor=anchor,
            refresh=refresh,
            rows_per_batch=rows_per_batch,
        )
        at_least(1, window=window)
        self.window = window

    def turns(self, groups: Sequence[Group]) -> Iterable[Sequence[Group]]:
        """The first windows of all requests, then those that have a second one, and so on."""
        model, size = self.language_model, self.window
        parts = [[windows(model, request, size) for request in group] for group in groups]
        count = max(len(part) for group in parts for part in group)
        return [
            [[part[turn] for part in group if turn < len(part)] for group in parts]
            for turn in range(count)
        ]
