"""The small language model that knows Atlas; README.md in this folder says what it reaches."""

from pathlib import Path

from models.language_model import LanguageModel

FOLDER = Path(__file__).parent


def language_model(**options) -> LanguageModel:
    """The shipped model; ``options`` as ``LanguageModel.load`` takes them."""
    loaded = LanguageModel.load(str(FOLDER), **options)
    loaded.name = "atlas"
    return loaded
