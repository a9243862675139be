"""Edit values: what editors return. They change what a language model says, never its weights."""

from edits.capture import Seen, captured
from edits.edit import Edit, EditedModel, HookedModel
from edits.journal import Journal
from edits.loading import load
from edits.routing import Entry, RoutedEdit
from edits.weights import Dense, LowRank, WeightEdit

__all__ = [
    "Dense",
    "Edit",
    "EditedModel",
    "Entry",
    "HookedModel",
    "Journal",
    "LowRank",
    "RoutedEdit",
    "Seen",
    "WeightEdit",
    "captured",
    "load",
]
