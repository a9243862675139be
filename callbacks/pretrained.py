"""The end of a pretraining run: the language model as a Hugging Face folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lightning as L
import torch


class SaveLanguageModel(L.Callback):
    """Writes ``module.language_model`` into a folder when training ends, whole or not at all.

    Args:
        folder: must not exist yet, or be empty.
        dtype: of the stored weights; half precision halves the file and is enough for inference.

    Raises:
        ValueError: unknown dtype, or the folder holds something.
    """

    def __init__(self, folder: str | Path, dtype: str = "float32"):
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {dtype!r}, expected float32, bfloat16 or float16")
        self.folder = Path(folder)
        self.dtype = getattr(torch, dtype)
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"folder {self.folder} holds something already; name another")

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the folder; one process does."""
        if not trainer.is_global_zero:
            return
        draft = self.folder.with_name(f".{self.folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            module.language_model.model.to(self.dtype).save_pretrained(draft)
            module.language_model.tokenizer.save_pretrained(draft)
            if self.folder.is_dir():
                self.folder.rmdir()
            os.replace(draft, self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
