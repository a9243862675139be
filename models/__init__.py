"""Language models: what they are asked, and which of their modules is what."""

from models.encoding import IGNORED, Batch
from models.families import FAMILIES, Family, UnsupportedModel
from models.language_model import LanguageModel
from models.passes import Around, Pass
from models.rendering import Rendering
from models.scores import Scores

__all__ = [
    "FAMILIES",
    "IGNORED",
    "Around",
    "Batch",
    "Family",
    "LanguageModel",
    "Pass",
    "Rendering",
    "Scores",
    "UnsupportedModel",
]
