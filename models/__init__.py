"""Language models: what they are asked, and which of their modules is what."""

from models.encoding import IGNORED, Batch
from models.families import FAMILIES, Family, UnsupportedModel
from models.language_model import Around, LanguageModel, Scores

__all__ = [
    "FAMILIES",
    "IGNORED",
    "Around",
    "Batch",
    "Family",
    "LanguageModel",
    "Scores",
    "UnsupportedModel",
]
