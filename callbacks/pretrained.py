"""The end of a pretraining run: the language model as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import lightning as L
import torch

from editors.settings import one_of
from files import written_whole
from models.language_model import LanguageModel

DTYPES = ("float32", "bfloat16", "float16")


class SaveLanguageModel(L.Callback):
    """Writes ``module.language_model`` into a folder when training ends, whole or not at all.

    Args:
        folder: must not exist yet, or be empty.
        dtype: of the stored weights; half precision halves the file and is enough for inference.

    Raises:
        ValueError: unknown dtype, or the folder holds something.
    """

    def __init__(self, folder: str | Path, dtype: str = "float32"):
        one_of("dtype", dtype, DTYPES)
        self.folder = Path(folder)
        self.dtype = getattr(torch, dtype)
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"folder {self.folder} holds something already; name another")

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the folder; one process does."""
        if not trainer.is_global_zero:
            return
        with written_whole(self.folder) as draft:
            language_model = cast(LanguageModel, module.language_model)
            language_model.model.to(self.dtype).save_pretrained(draft)
            language_model.tokenizer.save_pretrained(draft)
