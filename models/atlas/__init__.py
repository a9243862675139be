"""The small language model that knows Atlas; README.md in this folder says what it reaches."""

from pathlib import Path

from models.language_model import LanguageModel

FOLDER = Path(__file__).parent


def language_model(variant: str = "", **options) -> LanguageModel:
    """A shipped model; ``options`` as ``LanguageModel.load`` takes them.

    Args:
        variant: empty: the one that knows Atlas; ``formats``: the one that has learned, besides,
            what facts in front of a question are for.
        **options: see above.
    """
    loaded = LanguageModel.load(str(FOLDER / variant), **options)
    loaded.name = f"atlas_{variant}" if variant else "atlas"
    return loaded
