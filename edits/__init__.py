"""Edit values: what editors return. They change what a language model says, never its weights."""

from edits.codebook import Codebook
from edits.context import ContextEdit
from edits.edit import NOTHING, Edit, EditedModel, Route
from edits.journal import Journal, journaled
from edits.layout import Fact, Layout
from edits.loading import load
from edits.routing import Entry, RoutedEdit
from edits.steps import Steps, StepsEdit
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit

__all__ = [
    "NOTHING",
    "Codebook",
    "ContextEdit",
    "Dense",
    "Edit",
    "EditedModel",
    "Entry",
    "Fact",
    "Journal",
    "Layout",
    "LowRank",
    "Route",
    "RoutedEdit",
    "Steps",
    "StepsEdit",
    "WeightEdit",
    "journaled",
    "load",
]
