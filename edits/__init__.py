"""Edit values: what editors return. They change what a language model says, never its weights."""

from edits.codebook import Codebook
from edits.edit import NOTHING, Edit, EditedModel, Route
from edits.journal import Journal, journaled
from edits.loading import load
from edits.routing import Entry, RoutedEdit
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit

__all__ = [
    "NOTHING",
    "Codebook",
    "Dense",
    "Edit",
    "EditedModel",
    "Entry",
    "Journal",
    "LowRank",
    "Route",
    "RoutedEdit",
    "WeightEdit",
    "journaled",
    "load",
]
